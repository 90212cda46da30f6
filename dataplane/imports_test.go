// Package dataplane_test holds the data plane's import rules: DESIGN.md's "who may import whom" as a test.
package dataplane_test

import "testing"

const (
	module = "sallyport.dev/dataplane"
	policy = module + "/policy"
	proxy  = module + "/cmd/sallyport-proxy"
)

// planned packages are named by a rule but not written yet.
var planned []string

var rules = []rule{
	{
		who:   under(policy),
		never: []string{"context", "crypto/rand", "math/rand", "math/rand/v2"},
		why:   "policy gives the same verdict for the same snapshot and request wherever it runs: time is a field of Request, and nothing in it waits",
	},
	{
		who: under(policy),
		never: append(under("log", "os", "net/http", "net/rpc", "database/sql", "io/fs", "runtime", "syscall"),
			"net", "embed", "io/ioutil", "path/filepath"),
		why: "policy does no I/O and no logging: a verdict carries its own explanation",
	},
	{
		who: under(policy),
		// database/sql/driver holds only the interfaces that types such as uuid.UUID implement.
		never:  append(under("connectrpc.com", "github.com/nats-io", "github.com/jackc"), "database/sql", "net/http"),
		linked: true,
		why:    "policy is linked into the control plane, the proxy and the tests alike and must bring no server, client or database",
	},
	{
		who:    under(policy),
		never:  under(module),
		except: append(under(policy), module+"/internal/strictjson"),
		linked: true,
		why:    "policy is shared with the control plane; what it imports would become visible there too (strictjson is as pure as it, and the one reader of outside bytes)",
	},
	{
		who:    under(module),
		unless: under(policy),
		never:  under("cel.dev/cel-go", "github.com/google/cel-go", "github.com/santhosh-tekuri/jsonschema"),
		why:    "policy owns everything that makes a verdict; a second CEL environment or schema validator would give a second verdict",
	},
	{
		who:    under(module),
		never:  under("sallyport.dev/controlplane", "sallyport.dev/scripts"),
		linked: true,
		why:    "the data plane outlives the control plane: they share the contract in proto and nothing else (SCIM and its parsers too stay over there)",
	},
	{
		who:    []string{proxy},
		never:  under("github.com/nats-io"),
		linked: true,
		why:    "a proxy speaks to the control plane over the fleet service alone: it needs no way to, and no credentials for, the log",
	},
	{
		who: []string{proxy},
		// database/sql/driver holds only the interfaces that types such as uuid.UUID implement.
		never:  append(under("github.com/jackc", "github.com/lib/pq", "modernc.org/sqlite", "github.com/mattn/go-sqlite3"), "database/sql"),
		linked: true,
		why:    "a proxy holds nothing that cannot be fetched again; a database in it would be a place where truth collects",
	},
}

func TestPackagesImportOnlyWhatTheDesignAllows(t *testing.T) {
	check(t, module, rules, planned)
}
