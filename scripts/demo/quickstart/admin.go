package quickstart

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"connectrpc.com/connect"

	adminv1 "sallyport.dev/proto/gen/sallyport/admin/v1"
	"sallyport.dev/proto/gen/sallyport/admin/v1/adminv1connect"
	auditv1 "sallyport.dev/proto/gen/sallyport/audit/v1"
)

// Admin is an administrator: the command line for what is set up, the API for what is read and timed.
type Admin struct {
	Program   string
	URL       string
	TokenFile string
	Token     string

	Directories adminv1connect.DirectoryServiceClient
	Connectors  adminv1connect.ConnectorServiceClient
	Policy      adminv1connect.PolicyServiceClient
	Fleet       adminv1connect.FleetAdminServiceClient
	Audit       adminv1connect.AuditServiceClient
	AuditIndex  adminv1connect.AuditIndexServiceClient
}

// newAdmin returns an admin of the control plane at a URL, by the API and by the CLI.
func newAdmin(program, url, tokenFile, token string) *Admin {
	client := &http.Client{Transport: &authorized{token: token}}
	return &Admin{
		Program: program, URL: url, TokenFile: tokenFile, Token: token,
		Directories: adminv1connect.NewDirectoryServiceClient(client, url),
		Connectors:  adminv1connect.NewConnectorServiceClient(client, url),
		Policy:      adminv1connect.NewPolicyServiceClient(client, url),
		Fleet:       adminv1connect.NewFleetAdminServiceClient(client, url),
		Audit:       adminv1connect.NewAuditServiceClient(client, url),
		AuditIndex:  adminv1connect.NewAuditIndexServiceClient(client, url),
	}
}

// FirstOwner returns the admin who owns the control plane of a data folder. It exchanges the bootstrap token, as who sets
// an installation up does once, and keeps the owner's in DATA-DIR/admin-token.
func FirstOwner(ctx context.Context, program, url, dataDir string) (*Admin, error) {
	file := filepath.Join(dataDir, "admin-token")
	if _, err := os.Stat(file); errors.Is(err, fs.ErrNotExist) {
		set := &Admin{Program: program, URL: url, TokenFile: filepath.Join(dataDir, "bootstrap-token")}
		if _, err := set.Run(ctx, "admins", "first-owner", "--name", "set-up", "--expires", "366d", "--out", file); err != nil {
			return nil, err
		}
	}
	return AdminOf(program, url, file)
}

// AdminOf returns the admin whose token is in a file.
func AdminOf(program, url, tokenFile string) (*Admin, error) {
	token, err := os.ReadFile(tokenFile)
	if err != nil {
		return nil, fmt.Errorf("read the admin token: %w", err)
	}
	return newAdmin(program, url, tokenFile, strings.TrimSpace(string(token))), nil
}

// authorized puts the admin token on each request, streams included.
type authorized struct{ token string }

// RoundTrip sends one request.
func (a *authorized) RoundTrip(r *http.Request) (*http.Response, error) {
	r = r.Clone(r.Context())
	r.Header.Set("Authorization", "Bearer "+a.token)
	return http.DefaultTransport.RoundTrip(r)
}

// Run calls the command line as an admin would and returns what it printed, also with an error.
func (a *Admin) Run(ctx context.Context, args ...string) ([]byte, error) {
	cmd := exec.CommandContext(ctx, a.Program, append([]string{"--server", a.URL, "--token-file", a.TokenFile}, args...)...)
	var out, problem bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &problem
	if err := cmd.Run(); err != nil {
		return out.Bytes(), fmt.Errorf("sallyport %s: %w: %s", strings.Join(args, " "), err, strings.TrimSpace(problem.String()))
	}
	return out.Bytes(), nil
}

// Issue makes a token and returns it; the command line shows it this once.
func (a *Admin) Issue(ctx context.Context, args ...string) (string, error) {
	out, err := a.Run(ctx, append(append([]string{"tokens", "create"}, args...), "-o", "json")...)
	if err != nil {
		return "", err
	}
	var created struct {
		Token string `json:"token"`
	}
	if err := json.Unmarshal(out, &created); err != nil || created.Token == "" {
		return "", fmt.Errorf("sallyport tokens create %s: the answer holds no token", strings.Join(args, " "))
	}
	return created.Token, nil
}

// KeptToken is a token from a file, made and stored at the first time.
func (a *Admin) KeptToken(ctx context.Context, file string, args ...string) (string, error) {
	if kept, err := os.ReadFile(file); err == nil {
		return strings.TrimSpace(string(kept)), nil
	}
	token, err := a.Issue(ctx, args...)
	if err != nil {
		return "", err
	}
	if err := os.WriteFile(file, []byte(token+"\n"), 0o600); err != nil {
		return "", fmt.Errorf("keep the token: %w", err)
	}
	return token, nil
}

// Invite keeps an invitation for a proxy in a file, made at the first time.
func (a *Admin) Invite(ctx context.Context, file, name, region string) error {
	if _, err := os.Stat(file); err == nil {
		return nil
	}
	_, err := a.Run(ctx, "proxies", "invite", name, "--region", region, "--out", file)
	return err
}

// Apply writes resources to a file and applies it.
func (a *Admin) Apply(ctx context.Context, dir, name string, text []byte) error {
	path := filepath.Join(dir, "policy", strings.ReplaceAll(name, "/", "-"))
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return fmt.Errorf("make the folder for policy: %w", err)
	}
	if err := os.WriteFile(path, text, 0o600); err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	// What the stories of an earlier run on the same folder changed is to be as the files say again.
	_, err := a.Run(ctx, "apply", "--force-drift", "-f", path)
	return err
}

// Pin approves what an upstream offers.
func (a *Admin) Pin(ctx context.Context, connector string) error {
	_, err := a.Run(ctx, "catalogue", "approve", connector)
	return err
}

// Enforced waits until every proxy enforces a version, or the log's end where none is given.
func (a *Admin) Enforced(ctx context.Context, version uint64) error {
	if version == 0 {
		proxies, err := a.Fleet.ListProxies(ctx, connect.NewRequest(&adminv1.ListProxiesRequest{}))
		if err != nil {
			return fmt.Errorf("list the proxies: %w", err)
		}
		version = proxies.Msg.GetVersion()
	}
	receipt, err := a.Fleet.GetReceipt(ctx, connect.NewRequest(&adminv1.GetReceiptRequest{Version: version, Wait: true}))
	if err != nil {
		return fmt.Errorf("wait for version %d: %w", version, err)
	}
	if !receipt.Msg.GetEnforcedEverywhere() {
		return fmt.Errorf("version %d is not enforced everywhere", version)
	}
	return nil
}

// Explain asks for the verdict on a call, by the code that proxies run.
func (a *Admin) Explain(ctx context.Context, person, connector, tool string, args any) (*auditv1.Decision, error) {
	encoded, err := json.Marshal(args)
	if err != nil {
		return nil, fmt.Errorf("encode the arguments: %w", err)
	}
	res, err := a.Policy.Explain(ctx, connect.NewRequest(&adminv1.ExplainRequest{Person: person, Connector: connector, Tool: tool, Arguments: encoded}))
	if err != nil {
		return nil, fmt.Errorf("explain: %w", err)
	}
	return res.Msg.GetDecision(), nil
}

// Records returns all audit records that match, newest first.
func (a *Admin) Records(ctx context.Context, filter *adminv1.AuditFilter) ([]*adminv1.StoredRecord, error) {
	var out []*adminv1.StoredRecord
	page := ""
	for {
		res, err := a.Audit.SearchAudit(ctx, connect.NewRequest(&adminv1.SearchAuditRequest{Filter: filter, PageSize: 1000, PageToken: page}))
		if err != nil {
			return nil, fmt.Errorf("search audit: %w", err)
		}
		out = append(out, res.Msg.GetRecords()...)
		if page = res.Msg.GetNextPageToken(); page == "" {
			return out, nil
		}
	}
}
