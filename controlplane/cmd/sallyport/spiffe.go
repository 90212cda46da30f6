package main

import (
	"context"
	"errors"
	"log/slog"

	"github.com/spf13/pflag"

	"sallyport.dev/dataplane/spiffe"

	"sallyport.dev/controlplane/internal/fleet"
)

// spiffeConfig is how proxies are known by SPIFFE ids, beside those that were invited.
type spiffeConfig struct {
	cert, key string
	bundles   []string
	proxies   []string
}

func (c *spiffeConfig) flags(f *pflag.FlagSet) {
	f.StringVar(&c.cert, "spiffe-cert", "", "file with this control plane's own X.509-SVID, by which proxies with SPIFFE ids know it; files are read again when they change")
	f.StringVar(&c.key, "spiffe-key", "", "key file of --spiffe-cert")
	f.StringArrayVar(&c.bundles, "spiffe-bundle", nil, "TRUST-DOMAIN=FILE with what certifies in a trust domain, such as example.org=/run/spiffe/bundle.pem; may be repeated")
	f.StringArrayVar(&c.proxies, "spiffe-proxies", nil, "which SPIFFE ids are proxies: spiffe://example.org/sallyport/{region}/{name}, or REGION=spiffe://example.org/us/proxy-{name}; may be repeated (default: none, proxies are invited)")
}

// openWorkloads reads who is a proxy by its SPIFFE id. Nil: nobody.
func (c *spiffeConfig) openWorkloads(ctx context.Context, log *slog.Logger) (*fleet.Workloads, error) {
	if c.cert == "" && c.key == "" && len(c.bundles) == 0 && len(c.proxies) == 0 {
		return nil, nil
	}
	if c.cert == "" || c.key == "" || len(c.bundles) == 0 || len(c.proxies) == 0 {
		return nil, errors.New("--spiffe-cert, --spiffe-key, --spiffe-bundle and --spiffe-proxies go together")
	}
	source, err := spiffe.Open(ctx, spiffe.Config{Cert: c.cert, Key: c.key, Bundles: c.bundles, Log: log})
	if err != nil {
		return nil, err
	}
	return fleet.NewWorkloads(source, c.proxies)
}
