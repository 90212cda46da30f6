package authserver

import (
	"strings"

	"sallyport.dev/controlplane/internal/core"
)

// resource returns the resource that a token is asked for: one of the server's, or a connector below it. None asked for
// stands for the one that people are given.
func (s *Server) resource(state *core.State, asked string) (string, error) {
	if len(s.Resources) == 0 {
		return "", refuse("invalid_target", "", "no resource is set up: an operator gives the control plane --resource")
	}
	if asked == "" {
		return s.Resources[0], nil
	}
	asked = strings.TrimSuffix(asked, "/")
	for _, r := range s.Resources {
		if asked == r {
			return r, nil
		}
		if connector, below := strings.CutPrefix(asked, r+"/"); below && state.Connector(connector) != nil {
			return asked, nil
		}
	}
	return "", refuse("invalid_target", "resource_refused", "the resource is not one of this gateway's: use the URL that you were given, or a connector's below it")
}

// narrower tells whether a resource is another, or a connector below it.
func narrower(asked, granted string) bool {
	return asked == granted || strings.HasPrefix(asked, granted+"/")
}
