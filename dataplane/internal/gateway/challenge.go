package gateway

import (
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"time"

	"sallyport.dev/dataplane/dpop"
	"sallyport.dev/dataplane/internal/mcp"
	"sallyport.dev/dataplane/policy"
)

// scope is the one scope of Sallyport's own authorization server: what a person may do with which tool is the policy's to say.
// offline_access is not named: it is the agent's own wish, and no call needs it.
const scope = "mcp"

// challenge tells an agent where to find out who issues tokens, and for which scope to ask (RFC 6750, section 3; RFC 9728, section
// 5.1). Scopes are those of Sallyport's own authorization server: other issuers have theirs.
//
// bound: to who came with a token that is bound to a key, or with a proof of it (RFC 9449, section 7.1).
func (g *Gateway) challenge(c *caller, bound bool, code, text string) string {
	parts := []string{schemeOf(bound) + ` resource_metadata="` + g.metadataURL(c.connector) + `"`}
	if c.table != nil && c.table.OffersOwn() {
		parts = append(parts, `scope="`+scope+`"`)
	}
	if code != "" {
		parts = append(parts, `error="`+code+`"`, `error_description="`+text+`"`)
	}
	if bound {
		parts = append(parts, `algs="`+algorithms+`"`)
	}
	return strings.Join(parts, ", ")
}

// algorithms are those of proofs, as challenges name them.
var algorithms = strings.Trim(fmt.Sprint(dpop.Algorithms), "[]")

func schemeOf(bound bool) string {
	if bound {
		return "DPoP"
	}
	return "Bearer"
}

// addresses are those at which a request may have been sent: by the URL that people are given or by this proxy's.
func (g *Gateway) addresses(c *caller) []string {
	if c.connector == "" {
		return []string{c.resource, g.Resource}
	}
	return []string{c.resource, g.Resource + "/" + c.connector}
}

// stepUp refuses a call that is allowed once the person has signed in as rules ask. An agent that knows of scopes alone asks for the
// one that stands for the sign-in (MCP, authorization, step-up); one that knows RFC 9470 sends acr_values and max_age.
func (g *Gateway) stepUp(w http.ResponseWriter, x *exchange, how *policy.SignIn, text string) {
	parts := []string{schemeOf(x.Bound()) + ` error="insufficient_scope"`, `error_description="a fresh or stronger sign-in is required"`}
	if x.Own() {
		parts = append(parts, `scope="`+scope+" "+how.Scope(x.began)+`"`)
	}
	if len(how.ACR) > 0 {
		parts = append(parts, `acr_values="`+strings.Join(how.ACR, " ")+`"`)
	}
	if how.MaxAge > 0 {
		parts = append(parts, `max_age="`+strconv.Itoa(int(how.MaxAge/time.Second))+`"`)
	}
	parts = append(parts, `resource_metadata="`+g.metadataURL(x.connector)+`"`)
	w.Header().Set("WWW-Authenticate", strings.Join(parts, ", "))
	mcp.WriteError(w, x.revision, x.message.ID, &mcp.Error{Code: mcp.CodeInvalidRequest, Message: text, Status: http.StatusForbidden})
}
