package main

import (
	"context"
	"crypto/tls"
	"errors"
	"io/fs"
	"log/slog"

	"github.com/spf13/pflag"
	fleetv1 "sallyport.dev/proto/gen/sallyport/fleet/v1"

	"sallyport.dev/dataplane/internal/enrolment"
	"sallyport.dev/dataplane/spiffe"
)

// identityOf is who the proxy is to control planes and other proxies: by an invitation, or by a SPIFFE id.
type identityOf interface {
	ForControlPlanes() *tls.Config
	ForPeer(p *fleetv1.Peer) *tls.Config
	FromPeers() *tls.Config
	Peers(all []*fleetv1.Peer)
	Holds() *fleetv1.Authorities
	Want(wanted *fleetv1.Authorities)
	Run(ctx context.Context)
}

// spiffeConfig is where a SPIFFE authority's agent puts who the proxy is.
type spiffeConfig struct {
	cert, key, controlPlane string
	bundles                 []string
}

func (c *spiffeConfig) flags(f *pflag.FlagSet) {
	f.StringVar(&c.cert, "spiffe-cert", "", "file with the proxy's X.509-SVID, in place of an invitation; files are read again when they change")
	f.StringVar(&c.key, "spiffe-key", "", "key file of --spiffe-cert")
	f.StringArrayVar(&c.bundles, "spiffe-bundle", nil, "TRUST-DOMAIN=FILE with what certifies in a trust domain, such as example.org=/run/spiffe/bundle.pem; may be repeated")
	f.StringVar(&c.controlPlane, "spiffe-control-plane", "", "SPIFFE id of the control planes, such as spiffe://example.org/sallyport/control-plane")
}

// identity is who the proxy is. renewed is called when its certificate was replaced.
func (c *serveConfig) identity(ctx context.Context, log *slog.Logger, renewed func()) (identityOf, error) {
	if c.spiffe.cert != "" || c.spiffe.key != "" || c.spiffe.controlPlane != "" || len(c.spiffe.bundles) > 0 {
		if c.invitation != "" {
			return nil, errors.New("a proxy joins by an invitation or by a SPIFFE id, not by both: leave out --invitation-file or --spiffe-cert")
		}
		return enrolment.OpenWorkload(ctx, spiffe.Config{Cert: c.spiffe.cert, Key: c.spiffe.key, Bundles: c.spiffe.bundles, OnRenewed: renewed, Log: log}, c.spiffe.controlPlane)
	}
	invitation, err := secret(c.invitation, "SALLYPORT_INVITATION")
	if err != nil && !errors.Is(err, fs.ErrNotExist) { // once it joined, the file may be gone
		return nil, err
	}
	return enrolment.Open(ctx, enrolment.Config{
		Dir: c.dataDir, Invitation: invitation, ControlPlanes: c.controlPlanes, Spread: c.heartbeat, OnRenewed: renewed, Log: log,
	})
}
