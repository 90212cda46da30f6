// Package controlplane_test holds the control plane's import rules: DESIGN.md's "who may import whom" as a test.
package controlplane_test

import "testing"

const (
	module    = "sallyport.dev/controlplane"
	internal  = module + "/internal/"
	dataplane = "sallyport.dev/dataplane"
)

// adapters translate between the core and one outside party each.
var adapters = []string{"admin", "adminsession", "approval", "audit", "authserver", "console", "fleet", "reporting", "scim", "signals"}

// planned packages are named by a rule but not written yet.
var planned = []string{
	internal + "console",
}

var rules = []rule{
	{
		who:   under(internal + "core"),
		never: []string{"context", "crypto/rand", "math/rand", "math/rand/v2"},
		why:   "core decides the same from the same log, today and on replay: time, ids and randomness come in through Env, and nothing in it waits",
	},
	{
		who: under(internal + "core"),
		never: append(under("log", "os", "net/http", "net/rpc", "database/sql", "io/fs", "runtime", "syscall"),
			"net", "embed", "io/ioutil", "path/filepath"),
		why: "core does no I/O and no logging: it returns events and errors, and its caller acts on them",
	},
	{
		who: under(internal + "core"),
		// database/sql/driver holds only the interfaces that types such as uuid.UUID implement.
		never:  append(under("connectrpc.com", "github.com/nats-io", "github.com/jackc"), "database/sql", "net/http"),
		linked: true,
		why:    "core must build and be tested with no server, client or database in sight",
	},
	{
		who:    under(internal + "core"),
		never:  under(module),
		except: under(internal + "core"),
		linked: true,
		why:    "core is the bottom of the control plane: everybody may import it, so it can import nobody",
	},
	{
		who:    under(module),
		never:  under(dataplane),
		except: append(under(dataplane+"/policy", dataplane+"/egress", dataplane+"/dpop", dataplane+"/address", dataplane+"/sealing", dataplane+"/spiffe"), dataplane+"/internal/strictjson"),
		linked: true,
		why:    "of the data plane only five are shared: policy, so that explain and the proxies give one verdict, egress, so that both refuse the same addresses, dpop, so that both believe the same proofs, address, so that both see the same sender, and sealing, so that the one opens what the other sealed; the rest is the proxy's own",
	},
	{
		who:   under(module),
		never: under("cel.dev/cel-go", "github.com/google/cel-go", "github.com/santhosh-tekuri/jsonschema"),
		why:   "policy owns everything that makes a verdict; a second CEL environment or schema validator would give a second verdict",
	},
	{
		who:    under(module),
		unless: append(under(internal+"engine", internal+"journal", internal+"bench/commit", internal+"bench/raw"), module+"/cmd/sallyport"),
		never:  under(internal + "journal"),
		why:    "only the engine appends to the log: whoever writes around it breaks the expected sequence, the fence and replay (cmd opens it and hands it over; bench measures an engine of its own)",
	},
	{
		who:    under(module),
		unless: under(internal+"journal", internal+"kv", internal+"audit", internal+"natsconn", internal+"bench/audit"),
		never:  under("github.com/nats-io/nats.go/jetstream"),
		why:    "each stream has one owner: journal the events, kv the buckets, audit the records (natsconn opens the connection); everybody else goes through them",
	},
	{
		who:    under(module),
		unless: append(under(internal+"journal", internal+"kv", internal+"audit", internal+"natsconn", internal+"peers", internal+"bench/commit", internal+"bench/raw", internal+"bench/audit"), module+"/cmd/sallyport"),
		never:  under("github.com/nats-io"),
		why:    "NATS is a detail of the packages that own its streams, and of peers, which carries commands to the active writer (bench publishes raw, beside the engine)",
	},
	{
		who:    under(module),
		unless: under(internal + "natsconn"),
		never:  under("github.com/nats-io/nats-server"),
		why:    "the embedded server is reached through the same client API as an external cluster: one code path; natsconn alone starts it",
	},
	{
		who:    under(module),
		unless: under(internal+"audit/postgres", internal+"reporting"),
		never:  under("database/sql", "github.com/jackc", "github.com/lib/pq"),
		why:    "Postgres is an index that can be deleted and rebuilt; a package that needs it for more has put truth there",
	},
	{
		who:    under(internal+"engine", internal+"journal", internal+"kv", internal+"vault", internal+"natsconn", internal+"peers"),
		never:  underEach(internal, adapters),
		linked: true,
		why:    "what keeps the truth knows nobody who asks for it; an adapter declares the small interface that it needs",
	},
}

// adapterRules keep each adapter from every other.
func adapterRules() []rule {
	var rules []rule
	for _, adapter := range adapters {
		rules = append(rules, rule{
			who:    under(internal + adapter),
			never:  underEach(internal, adapters),
			except: under(internal + adapter),
			linked: true,
			why:    "adapters never import each other: each can be read, tested and removed alone, and what two of them share belongs in core or engine",
		})
	}
	return rules
}

func TestPackagesImportOnlyWhatTheDesignAllows(t *testing.T) {
	check(t, module, append(rules, adapterRules()...), planned)
}

// underEach is under for each name below a common path.
func underEach(parent string, names []string) []string {
	var patterns []string
	for _, name := range names {
		patterns = append(patterns, under(parent+name)...)
	}
	return patterns
}
