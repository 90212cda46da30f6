package main

import (
	"fmt"
	"net/http"

	"github.com/spf13/pflag"

	"sallyport.dev/dataplane/address"
)

// balancersConfig is what the flags of `serve` say of load balancers before the listeners.
type balancersConfig struct {
	ranges []string
	header string
}

func (c *balancersConfig) flags(f *pflag.FlagSet) {
	f.StringSliceVar(&c.ranges, "load-balancer", nil, "addresses or ranges of the load balancers before the SCIM, admin and sign-in listeners, such as 10.1.0.0/16, whose word is taken for where a request came from (default: nobody's)")
	f.StringVar(&c.header, "load-balancer-header", address.XForwardedFor, "header in which they say it: X-Forwarded-For or Forwarded")
}

// behind returns a handler that sees where requests came from before the load balancers.
func (c *balancersConfig) behind(h http.Handler) (http.Handler, error) {
	b, err := address.NewBalancers(c.ranges, c.header)
	if err != nil {
		return nil, fmt.Errorf("--load-balancer: %w", err)
	}
	return b.Handler(h), nil
}
