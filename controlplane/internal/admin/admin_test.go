package admin_test

import (
	"context"
	"errors"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	"connectrpc.com/connect"
	"connectrpc.com/grpcreflect"
	"github.com/modelcontextprotocol/go-sdk/mcp"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"
	adminv1 "sallyport.dev/proto/gen/sallyport/admin/v1"
	"sallyport.dev/proto/gen/sallyport/admin/v1/adminv1connect"
	auditv1 "sallyport.dev/proto/gen/sallyport/audit/v1"
	eventv1 "sallyport.dev/proto/gen/sallyport/event/v1"
	policyv1 "sallyport.dev/proto/gen/sallyport/policy/v1"

	"sallyport.dev/dataplane/policy"

	"sallyport.dev/controlplane/internal/activity"
	"sallyport.dev/controlplane/internal/admin"
	"sallyport.dev/controlplane/internal/adminsession"
	"sallyport.dev/controlplane/internal/audit"
	"sallyport.dev/controlplane/internal/core"
	"sallyport.dev/controlplane/internal/credentials"
	"sallyport.dev/controlplane/internal/discover"
	"sallyport.dev/controlplane/internal/engine/enginetest"
	"sallyport.dev/controlplane/internal/fleet"
	"sallyport.dev/controlplane/internal/journal"
	"sallyport.dev/controlplane/internal/kv"
	"sallyport.dev/controlplane/internal/usage"
	"sallyport.dev/controlplane/internal/vault"
)

// site is the admin API over a real engine, with an admin's token.
type site struct {
	*enginetest.Plane
	server   *httptest.Server
	roster   *fleet.Roster
	audit    *audit.Store
	activity *activity.Recorder
	token    string
	option   connect.ClientOption
	sessions *adminsession.Sessions
	usage    *usage.Recorder
}

// ledger keeps standings in real key-value, of which nobody else writes any.
type ledger struct{ *kv.Store }

func (l ledger) Update(ctx context.Context, key string, change func([]byte) ([]byte, error)) (uint64, error) {
	return l.Change(ctx, key, 0, change)
}

func (l ledger) Watch(ctx context.Context, synced func(), _ func(string, []byte, uint64)) error {
	synced()
	<-ctx.Done()
	return nil
}

func newSite(t *testing.T) *site {
	t.Helper()
	return newSiteLogging(t, slog.New(slog.DiscardHandler))
}

func newSiteLogging(t *testing.T, log *slog.Logger) *site {
	t.Helper()
	return newSiteNoting(t, log, nil)
}

func newSiteNoting(t *testing.T, log *slog.Logger, trail admin.Trail) *site {
	t.Helper()
	p := enginetest.New(t).Start(nil)
	p.Directory("okta")
	records, err := audit.Open(t.Context(), p.Conn.Conn, audit.Config{})
	enginetest.Must(t, err)
	s := &site{Plane: p, audit: records, roster: fleet.NewRoster(ledger{p.Shared}, p.Log), activity: activity.NewRecorder(p.Shared, p.Log)}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.roster.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		enginetest.Must(t, <-done)
	})
	_, s.token = p.Token(eventv1.TokenKind_TOKEN_KIND_ADMIN, "root")
	s.option = connect.WithInterceptors(bearerOf(s.token))
	s.sessions = &adminsession.Sessions{Engine: p.Engine, Store: p.Shared, Now: time.Now}
	s.usage = &usage.Recorder{Store: p.Shared, Name: "a", Now: time.Now, Log: p.Log}
	keeper := credentials.New(credentials.Config{Engine: p.Engine, Store: p.Shared, Vault: p.Vault, URL: "https://sallyport.example", Every: 5 * time.Millisecond, Log: log})
	keeping, stop := context.WithCancel(context.Background())
	kept := make(chan struct{})
	go func() { keeper.Run(keeping); close(kept) }()
	t.Cleanup(func() { stop(); <-kept })
	s.server = enginetest.Serve(t, admin.NewHandler(admin.Config{
		Engine: p.Engine, Secrets: p.Vault, Fleet: s.roster, Discoverer: discover.Discoverer{}, Credentials: keeper, Audit: records, Activity: s.activity, Sessions: s.sessions, Trail: trail, Log: log, Usage: s.usage,
		Invitation: func(token string) string { return token }, SignInSecrets: p.Vault, SignInURL: "https://sallyport.example",
	}))
	return s
}

// event reads an event from the log.
func (s *site) event(t *testing.T, seq uint64) *eventv1.Event {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	found := errors.New("found")
	ev := &eventv1.Event{}
	err := s.Events.Follow(ctx, seq-1, func(records []journal.Record) error {
		enginetest.Must(t, proto.Unmarshal(records[0].Data, ev))
		return found
	})
	if !errors.Is(err, found) {
		t.Fatal(err)
	}
	return ev
}

// bearerOf sends a token with each call.
type bearerOf string

func (b bearerOf) WrapUnary(next connect.UnaryFunc) connect.UnaryFunc {
	return func(ctx context.Context, req connect.AnyRequest) (connect.AnyResponse, error) {
		req.Header().Set("Authorization", "Bearer "+string(b))
		return next(ctx, req)
	}
}

func (b bearerOf) WrapStreamingClient(next connect.StreamingClientFunc) connect.StreamingClientFunc {
	return func(ctx context.Context, spec connect.Spec) connect.StreamingClientConn {
		conn := next(ctx, spec)
		conn.RequestHeader().Set("Authorization", "Bearer "+string(b))
		return conn
	}
}

func (bearerOf) WrapStreamingHandler(next connect.StreamingHandlerFunc) connect.StreamingHandlerFunc {
	return next
}

func (s *site) policy() adminv1connect.PolicyServiceClient {
	return adminv1connect.NewPolicyServiceClient(http.DefaultClient, s.server.URL, s.option)
}

func (s *site) connectors() adminv1connect.ConnectorServiceClient {
	return adminv1connect.NewConnectorServiceClient(http.DefaultClient, s.server.URL, s.option)
}

// code checks how a call was refused.
func code(t *testing.T, what string, err error, want connect.Code) {
	t.Helper()
	if got := connect.CodeOf(err); err == nil || got != want {
		t.Errorf("%s: %v, want %v", what, err, want)
	}
}

func TestNobodyIsLetInWithoutAnAdminsToken(t *testing.T) {
	s := newSite(t)
	_, scim := s.Token(eventv1.TokenKind_TOKEN_KIND_SCIM, "okta")
	_, proxy := s.Token(eventv1.TokenKind_TOKEN_KIND_PROXY, "us-east-1")
	revokedID, revoked := s.Token(eventv1.TokenKind_TOKEN_KIND_ADMIN, "gone")
	s.Do(core.RevokeToken{ID: revokedID})
	h2c := enginetest.H2C(t)
	for name, token := range map[string]string{"none": "", "scim": scim, "proxy": proxy, "revoked": revoked, "forged": s.token[:len(s.token)-4] + "AAAA"} {
		for protocol, options := range map[string][]connect.ClientOption{
			"Connect": nil, "gRPC": {connect.WithGRPC()}, "gRPC-Web": {connect.WithGRPCWeb()}, "JSON": {connect.WithProtoJSON()},
		} {
			options = append(options, connect.WithInterceptors(bearerOf(token)))
			_, err := adminv1connect.NewTokenServiceClient(h2c, s.server.URL, options...).ListTokens(t.Context(), connect.NewRequest(&adminv1.ListTokensRequest{}))
			code(t, name+" lists tokens by "+protocol, err, connect.CodeUnauthenticated)
			// A request that is also invalid tells a stranger nothing of that.
			_, err = adminv1connect.NewTokenServiceClient(h2c, s.server.URL, options...).RevokeToken(t.Context(), connect.NewRequest(&adminv1.RevokeTokenRequest{Id: "x"}))
			code(t, name+" revokes a token by "+protocol, err, connect.CodeUnauthenticated)
			stream, err := adminv1connect.NewAuditServiceClient(h2c, s.server.URL, options...).TailAudit(t.Context(), connect.NewRequest(&adminv1.TailAuditRequest{}))
			if err == nil {
				if stream.Receive() {
					t.Errorf("%s receives audit by %s", name, protocol)
				}
				err = stream.Err()
			}
			code(t, name+" follows audit by "+protocol, err, connect.CodeUnauthenticated)
		}
	}
	req, err := http.NewRequestWithContext(t.Context(), "POST", s.server.URL+adminv1connect.TokenServiceListTokensProcedure, strings.NewReader("{}"))
	enginetest.Must(t, err)
	req.Header.Set("Content-Type", "application/json")
	res, err := http.DefaultClient.Do(req)
	enginetest.Must(t, err)
	res.Body.Close()
	if got := res.Header.Get("WWW-Authenticate"); res.StatusCode != 401 || got == "" {
		t.Errorf("a plain request: %s, WWW-Authenticate %q", res.Status, got)
	}
	for protocol, options := range map[string][]connect.ClientOption{"Connect": nil, "gRPC": {connect.WithGRPC()}, "gRPC-Web": {connect.WithGRPCWeb()}, "JSON": {connect.WithProtoJSON()}} {
		res, err := adminv1connect.NewTokenServiceClient(h2c, s.server.URL, append(options, s.option)...).ListTokens(t.Context(), connect.NewRequest(&adminv1.ListTokensRequest{}))
		if err != nil || len(res.Msg.GetTokens()) != 3 {
			t.Errorf("an admin by %s: %v", protocol, err)
		}
	}
}

func TestToolsCanAskWhatThereIsAndWhetherItIsWell(t *testing.T) {
	s := newSite(t)
	h2c := enginetest.H2C(t)
	reflection := grpcreflect.NewClient(h2c, s.server.URL, connect.WithGRPC(), s.option)
	stream := reflection.NewStream(t.Context())
	names, err := stream.ListServices()
	enginetest.Must(t, err)
	var all []string
	for _, n := range names {
		all = append(all, string(n))
	}
	for _, want := range []string{adminv1connect.DirectoryServiceName, adminv1connect.TokenServiceName, adminv1connect.ConnectorServiceName, adminv1connect.PolicyServiceName, adminv1connect.FleetAdminServiceName, adminv1connect.AuditServiceName} {
		if !slices.Contains(all, want) {
			t.Errorf("reflection does not name %s: %v", want, all)
		}
	}
	_, err = stream.Close()
	enginetest.Must(t, err)
	req, err := http.NewRequestWithContext(t.Context(), "POST", s.server.URL+"/grpc.health.v1.Health/Check", strings.NewReader(`{}`))
	enginetest.Must(t, err)
	req.Header.Set("Content-Type", "application/json")
	res, err := http.DefaultClient.Do(req)
	enginetest.Must(t, err)
	res.Body.Close()
	if res.StatusCode != 200 {
		t.Errorf("health: %s", res.Status)
	}
}

func TestTokenKindsHaveTheSameNumbersInTheAPIAndTheLog(t *testing.T) {
	if len(adminv1.TokenKind_name) != len(eventv1.TokenKind_name) {
		t.Fatalf("the API has %d kinds, the log %d", len(adminv1.TokenKind_name), len(eventv1.TokenKind_name))
	}
	for number, name := range adminv1.TokenKind_name {
		if eventv1.TokenKind_name[number] != name {
			t.Errorf("%d is %s in the API and %s in the log", number, name, eventv1.TokenKind_name[number])
		}
	}
}

func TestATokenIsShownOnceAndEndsWhenItIsRevoked(t *testing.T) {
	s := newSite(t)
	tokens := adminv1connect.NewTokenServiceClient(http.DefaultClient, s.server.URL, s.option)
	made, err := tokens.CreateToken(t.Context(), connect.NewRequest(&adminv1.CreateTokenRequest{Kind: adminv1.TokenKind_TOKEN_KIND_ADMIN, Name: "second", Role: policyv1.Role_ROLE_ADMIN, Ttl: durationpb.New(time.Hour)}))
	enginetest.Must(t, err)
	second := adminv1connect.NewTokenServiceClient(http.DefaultClient, s.server.URL, connect.WithInterceptors(bearerOf(made.Msg.GetToken())))
	list, err := second.ListTokens(t.Context(), connect.NewRequest(&adminv1.ListTokensRequest{}))
	enginetest.Must(t, err)
	if strings.Contains(list.Msg.String(), made.Msg.GetToken()) {
		t.Error("a token is listed")
	}
	_, err = tokens.RevokeToken(t.Context(), connect.NewRequest(&adminv1.RevokeTokenRequest{Id: made.Msg.GetId()}))
	enginetest.Must(t, err)
	_, err = second.ListTokens(t.Context(), connect.NewRequest(&adminv1.ListTokensRequest{}))
	code(t, "a revoked token", err, connect.CodeUnauthenticated)
	for name, req := range map[string]*adminv1.CreateTokenRequest{
		"no kind": {}, "another kind": {Kind: 9}, "a long name": {Kind: 2, Role: 1, Name: strings.Repeat("x", 200)}, "no time to live": {Kind: 2, Role: 1, Ttl: durationpb.New(0)},
		"no role": {Kind: 2}, "another role": {Kind: 2, Role: 9}, "no end within reason": {Kind: 2, Role: 1, Ttl: durationpb.New(10000 * time.Hour)}, "a bootstrap token": {Kind: 15}, "a break-glass credential": {Kind: 16},
	} {
		_, err := tokens.CreateToken(t.Context(), connect.NewRequest(req))
		code(t, name, err, connect.CodeInvalidArgument)
	}
	_, err = tokens.CreateToken(t.Context(), connect.NewRequest(&adminv1.CreateTokenRequest{Kind: adminv1.TokenKind_TOKEN_KIND_SCIM, DirectoryId: "nowhere"}))
	code(t, "for an unknown directory", err, connect.CodeNotFound)
}

func TestApplyChangesAllOrNothing(t *testing.T) {
	s := newSite(t)
	s.Group("okta", "Engineers")
	github := &policyv1.Connector{Id: "github", Url: "https://mcp.example/github"}
	grant := func(group string, rules ...*policyv1.Rule) *adminv1.Grant {
		return &adminv1.Grant{Group: group, Connector: "github", Rules: rules}
	}
	allow := &policyv1.Rule{Allow: []string{"read"}}
	before := s.Engine.State().Seq()
	for name, test := range map[string]struct {
		request *adminv1.ApplyRequest
		want    connect.Code
	}{
		"an unknown group":       {&adminv1.ApplyRequest{Connectors: []*policyv1.Connector{github}, Grants: []*adminv1.Grant{grant("okta/Engineers", allow), grant("okta/Nobody", allow)}}, connect.CodeNotFound},
		"an unknown connector":   {&adminv1.ApplyRequest{Connectors: []*policyv1.Connector{github}, Grants: []*adminv1.Grant{{Group: "okta/Engineers", Connector: "gitlab", Rules: []*policyv1.Rule{allow}}}}, connect.CodeNotFound},
		"a rule of both kinds":   {&adminv1.ApplyRequest{Connectors: []*policyv1.Connector{github}, Grants: []*adminv1.Grant{grant("okta/Engineers", &policyv1.Rule{Allow: []string{"a"}, Deny: []string{"b"}})}}, connect.CodeInvalidArgument},
		"a condition that is no": {&adminv1.ApplyRequest{Connectors: []*policyv1.Connector{github}, Grants: []*adminv1.Grant{grant("okta/Engineers", &policyv1.Rule{Allow: []string{"a"}, When: "args."})}}, connect.CodeInvalidArgument},
		"a URL that is none":     {&adminv1.ApplyRequest{Connectors: []*policyv1.Connector{github, {Id: "x", Url: "javascript:1"}}}, connect.CodeInvalidArgument},
		"a bad id":               {&adminv1.ApplyRequest{Connectors: []*policyv1.Connector{{Id: "Git Hub", Url: "https://x.example"}}}, connect.CodeInvalidArgument},
	} {
		for _, dry := range []bool{true, false} {
			test.request.DryRun = dry
			_, err := s.policy().Apply(t.Context(), connect.NewRequest(test.request))
			code(t, name, err, test.want)
		}
	}
	good := &adminv1.ApplyRequest{Connectors: []*policyv1.Connector{github}, Grants: []*adminv1.Grant{grant("okta/Engineers", allow)}, DryRun: true}
	actions := func() (all []adminv1.AppliedAction) {
		t.Helper()
		res, err := s.policy().Apply(t.Context(), connect.NewRequest(good))
		enginetest.Must(t, err)
		for _, c := range res.Msg.GetChanges() {
			all = append(all, c.GetAction())
		}
		return all
	}
	created, unchanged, updated := adminv1.AppliedAction_APPLIED_ACTION_CREATED, adminv1.AppliedAction_APPLIED_ACTION_UNCHANGED, adminv1.AppliedAction_APPLIED_ACTION_UPDATED
	if got := actions(); !slices.Equal(got, []adminv1.AppliedAction{created, created}) {
		t.Errorf("a dry run says %v", got)
	}
	if got := s.Engine.State(); got.Connector("github") != nil || got.Seq() != before {
		t.Error("what was refused, or only tried, was done")
	}
	good.DryRun = false
	if got := actions(); !slices.Equal(got, []adminv1.AppliedAction{created, created}) {
		t.Errorf("applied: %v", got)
	}
	if got := actions(); !slices.Equal(got, []adminv1.AppliedAction{unchanged, unchanged}) {
		t.Errorf("applied again: %v", got)
	}
	good.Grants[0].Rules = []*policyv1.Rule{{Allow: []string{"*"}}}
	if got := actions(); !slices.Equal(got, []adminv1.AppliedAction{unchanged, updated}) {
		t.Errorf("with other rules: %v", got)
	}
	grants, err := s.policy().ListGrants(t.Context(), connect.NewRequest(&adminv1.ListGrantsRequest{}))
	enginetest.Must(t, err)
	if got := grants.Msg.GetGrants(); len(got) != 1 || got[0].GetGroup() != "okta/Engineers" || got[0].GetRules()[0].GetAllow()[0] != "*" {
		t.Errorf("grants: %v", got)
	}
}

// TestExplainSaysWhatAProxyWouldDecide compares each verdict with the table that a proxy of the region builds.
func TestExplainSaysWhatAProxyWouldDecide(t *testing.T) {
	s := newSite(t)
	ada, bob := s.User("okta", "ada"), s.User("okta", "bob")
	group := s.Group("okta", "Engineers", ada)
	s.Do(core.NewApplyPolicy([]*policyv1.Connector{{Id: "github", Url: "https://mcp.example/github"}}, nil))
	schema := `,"inputSchema":{"type":"object","properties":{"branch":{"type":"string"}}}}`
	s.Do(core.NewPinCatalogue("github", []*policyv1.Tool{{Name: "push", Definition: []byte(`{"name":"push"` + schema)}, {Name: "read", Definition: []byte(`{"name":"read"` + schema)}, {Name: "delete", Definition: []byte(`{"name":"delete"` + schema)}}))
	s.Do(core.NewApplyPolicy(nil, []core.GrantSpec{core.NewGrantSpec(group.ID, "github", []*policyv1.Rule{
		{Allow: []string{"read"}}, {Allow: []string{"push"}, When: `has(args.branch) && args.branch.startsWith("agent/")`}, {Deny: []string{"delete"}},
	})}))
	state := s.Engine.State()
	table, err := policy.Compile(state.Seq(), state.Entries("us-east"))
	enginetest.Must(t, err)
	allowed := 0
	for _, u := range []*core.User{ada, bob} {
		for _, tool := range []string{"push", "read", "delete", "unknown"} {
			for _, arguments := range []string{`{}`, `{"branch":"agent/x"}`, `{"branch":"main"}`} {
				res, err := s.policy().Explain(t.Context(), connect.NewRequest(&adminv1.ExplainRequest{Person: u.UserName, Connector: "github", Tool: tool, Arguments: []byte(arguments), Region: "us-east"}))
				enginetest.Must(t, err)
				args, err := table.Arguments("github", tool, []byte(arguments))
				enginetest.Must(t, err)
				want := table.Decide(policy.Request{Person: u.ID, Connector: "github", Tool: tool, Region: "us-east", Arguments: args, Now: time.Now()})
				got := res.Msg.GetDecision()
				if want.Allowed != (got.GetVerdict() == auditv1.Verdict_VERDICT_ALLOWED) || want.Reason != got.GetReason() || res.Msg.GetVersion() != state.Seq() {
					t.Errorf("%s, %s %s: explained as %v, decided as %v", u.UserName, tool, arguments, got, want)
				}
				if want.Allowed {
					allowed++
					if g := res.Msg.GetGroups(); len(g) != 1 || g[0].GetId() != group.ID.String() {
						t.Errorf("the groups that count are %v", g)
					}
				}
			}
		}
	}
	if allowed != 4 {
		t.Errorf("%d calls are allowed, want 4", allowed)
	}
	bad, err := s.policy().Explain(t.Context(), connect.NewRequest(&adminv1.ExplainRequest{Person: "ada", Connector: "github", Tool: "push", Arguments: []byte(`{"branch":"agent/x","branch":"main"}`)}))
	enginetest.Must(t, err)
	if bad.Msg.GetDecision().GetReason() != auditv1.Reason_REASON_ARGUMENTS_INVALID {
		t.Errorf("a name twice: %v", bad.Msg.GetDecision())
	}
	_, err = s.policy().Explain(t.Context(), connect.NewRequest(&adminv1.ExplainRequest{Person: "nobody", Connector: "github", Tool: "push"}))
	code(t, "of nobody", err, connect.CodeNotFound)
}

// TestAReceiptWaitsUntilAllEnforceOrCannotServe: a proxy that is behind holds it up until it acknowledges, or
// its lease runs out.
func TestAReceiptWaitsUntilAllEnforceOrCannotServe(t *testing.T) {
	s := newSite(t)
	first, _ := s.Token(eventv1.TokenKind_TOKEN_KIND_PROXY, "us-east-1")
	second, _ := s.Token(eventv1.TokenKind_TOKEN_KIND_PROXY, "us-east-2")
	s.Token(eventv1.TokenKind_TOKEN_KIND_PROXY, "never-came")
	state := s.Engine.State()
	version := state.Seq()
	receipts := adminv1connect.NewFleetAdminServiceClient(http.DefaultClient, s.server.URL, s.option)
	enginetest.Eventually(t, "the roster to be read", func() bool {
		_, _, err := s.roster.Standings(state, time.Now())
		return err == nil
	})
	get := func(wait bool) *adminv1.GetReceiptResponse {
		t.Helper()
		res, err := receipts.GetReceipt(t.Context(), connect.NewRequest(&adminv1.GetReceiptRequest{Version: version, Wait: wait}))
		enginetest.Must(t, err)
		return res.Msg
	}
	enginetest.Must(t, s.roster.Lease(t.Context(), state.Token(first), time.Now().Add(time.Hour), time.Minute))
	enginetest.Must(t, s.roster.Lease(t.Context(), state.Token(second), time.Now().Add(2*time.Second), 0))
	s.roster.Acknowledged(state.Token(first), version-1, time.Now())
	if get(false).GetEnforcedEverywhere() {
		t.Error("enforced everywhere, though two proxies are behind")
	}
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	_, err := receipts.GetReceipt(ctx, connect.NewRequest(&adminv1.GetReceiptRequest{Version: version, Wait: true}))
	code(t, "a receipt that does not come in time", err, connect.CodeDeadlineExceeded)
	got := make(chan *adminv1.GetReceiptResponse, 1)
	go func() {
		res, err := receipts.GetReceipt(t.Context(), connect.NewRequest(&adminv1.GetReceiptRequest{Version: version, Wait: true}))
		if err != nil {
			t.Error(err)
			got <- nil
			return
		}
		got <- res.Msg
	}()
	s.roster.Acknowledged(state.Token(first), version, time.Now())
	receipt := <-got
	if !receipt.GetEnforcedEverywhere() || len(receipt.GetProxies()) != 3 {
		t.Fatalf("the receipt is %v", receipt)
	}
	for _, p := range receipt.GetProxies() {
		if enforced := p.GetProxy() == "us-east-1"; p.GetEnforced() != enforced || !enforced && !p.GetLeaseExpired() {
			t.Errorf("the receipt of %s is %v", p.GetProxy(), p)
		}
	}
	_, err = receipts.GetReceipt(t.Context(), connect.NewRequest(&adminv1.GetReceiptRequest{}))
	code(t, "a receipt for no version", err, connect.CodeInvalidArgument)
}

// TestACatalogueIsPinnedAsItWasSeen drives a real MCP server whose tools change after the admin looked.
func TestACatalogueIsPinnedAsItWasSeen(t *testing.T) {
	s := newSite(t)
	upstream := mcp.NewServer(&mcp.Implementation{Name: "upstream", Version: "1"}, nil)
	offer := func(name string) {
		mcp.AddTool(upstream, &mcp.Tool{Name: name, Description: name}, func(context.Context, *mcp.CallToolRequest, struct{}) (*mcp.CallToolResult, any, error) {
			return &mcp.CallToolResult{}, nil, nil
		})
	}
	offer("read")
	server := httptest.NewServer(mcp.NewStreamableHTTPHandler(func(*http.Request) *mcp.Server { return upstream }, nil))
	t.Cleanup(func() { server.CloseClientConnections(); server.Close() })
	header := &policyv1.UpstreamAuth{Kind: &policyv1.UpstreamAuth_Header{Header: &policyv1.UpstreamAuth_StaticHeader{Name: "X-Key"}}}
	s.Do(core.NewApplyPolicy([]*policyv1.Connector{{Id: "github", Url: server.URL + "/mcp", Auth: header}}, nil))
	_, err := s.connectors().DiscoverCatalogue(t.Context(), connect.NewRequest(&adminv1.DiscoverCatalogueRequest{ConnectorId: "github"}))
	code(t, "a loopback address that nobody allowed", err, connect.CodeFailedPrecondition)
	s.Do(core.NewApplyPolicy([]*policyv1.Connector{{Id: "github", Url: server.URL + "/mcp", Auth: header, AllowedRanges: []string{"127.0.0.0/8"}}}, nil))
	seen, err := s.connectors().DiscoverCatalogue(t.Context(), connect.NewRequest(&adminv1.DiscoverCatalogueRequest{ConnectorId: "github"}))
	enginetest.Must(t, err)
	if c := seen.Msg.GetChanges(); len(c) != 1 || c[0].GetKind() != adminv1.ToolChangeKind_TOOL_CHANGE_KIND_ADDED || c[0].GetName() != "read" {
		t.Errorf("changes: %v", c)
	}
	offer("write")
	approve := func(digest string) (*connect.Response[adminv1.ApproveCatalogueResponse], error) {
		return s.connectors().ApproveCatalogue(t.Context(), connect.NewRequest(&adminv1.ApproveCatalogueRequest{ConnectorId: "github", Digest: digest}))
	}
	_, err = approve(seen.Msg.GetDigest())
	code(t, "what was seen is not what is offered", err, connect.CodeAborted)
	seen, err = s.connectors().DiscoverCatalogue(t.Context(), connect.NewRequest(&adminv1.DiscoverCatalogueRequest{ConnectorId: "github"}))
	enginetest.Must(t, err)
	pinned, err := approve(seen.Msg.GetDigest())
	enginetest.Must(t, err)
	if pinned.Msg.GetPinnedTools() != 2 {
		t.Errorf("%d tools were pinned", pinned.Msg.GetPinnedTools())
	}

	// A secret is kept, is told to nobody, and goes with its successor and its connector.
	const first, second = "first-upstream-secret", "second-upstream-secret"
	var ids []string
	for _, value := range []string{first, second} {
		_, err := s.connectors().SetConnectorSecret(t.Context(), connect.NewRequest(&adminv1.SetConnectorSecretRequest{ConnectorId: "github", Value: value}))
		enginetest.Must(t, err)
		ids = append(ids, s.Engine.State().Connector("github").SecretID)
	}
	if got, err := s.Vault.ConnectorSecret(t.Context(), ids[1], "github"); err != nil || got != second {
		t.Errorf("the second secret: %v", err)
	}
	gone := func(id string) {
		enginetest.Eventually(t, "the secret to be destroyed", func() bool {
			_, err := s.Vault.ConnectorSecret(t.Context(), id, "github")
			return errors.Is(err, vault.ErrNotFound)
		})
	}
	gone(ids[0])
	read, err := s.connectors().GetConnector(t.Context(), connect.NewRequest(&adminv1.GetConnectorRequest{Id: "github"}))
	enginetest.Must(t, err)
	if !read.Msg.GetStatus().GetSecretSet() || strings.Contains(read.Msg.String(), second) {
		t.Errorf("the connector is shown as %v", read.Msg)
	}
	_, err = s.connectors().RetireConnector(t.Context(), connect.NewRequest(&adminv1.RetireConnectorRequest{Id: "github"}))
	enginetest.Must(t, err)
	gone(ids[1])
	if files := enginetest.OnDisk(t, s.Dir, []byte("upstream-secret")); len(files) > 0 {
		t.Errorf("a secret is on disk, in %v", files)
	}
	_, err = s.connectors().SetConnectorSecret(t.Context(), connect.NewRequest(&adminv1.SetConnectorSecretRequest{ConnectorId: "nowhere", Value: "x"}))
	code(t, "the secret of no connector", err, connect.CodeNotFound)
}

func TestAuditIsSearchedAndFollowedByAPersonsName(t *testing.T) {
	s := newSite(t)
	ada := s.User("okta", "ada")
	add := func(number uint64, person string) {
		t.Helper()
		_, err := s.audit.Append(t.Context(), "p1", "us-east", "g1", []*auditv1.AuditRecord{{Number: number, PersonId: person, At: timestamppb.Now()}})
		enginetest.Must(t, err)
	}
	add(1, ada.ID.String())
	add(2, "somebody else")
	client := adminv1connect.NewAuditServiceClient(enginetest.H2C(t), s.server.URL, s.option)
	filter := &adminv1.AuditFilter{Person: "ada"}
	found, err := client.SearchAudit(t.Context(), connect.NewRequest(&adminv1.SearchAuditRequest{Filter: filter}))
	enginetest.Must(t, err)
	if r := found.Msg.GetRecords(); len(r) != 1 || r[0].GetPersonName() != "ada" {
		t.Errorf("found %v", r)
	}
	_, err = client.SearchAudit(t.Context(), connect.NewRequest(&adminv1.SearchAuditRequest{Filter: &adminv1.AuditFilter{Person: "nobody"}}))
	code(t, "a search for nobody", err, connect.CodeNotFound)
	_, err = client.SearchAudit(t.Context(), connect.NewRequest(&adminv1.SearchAuditRequest{PageSize: 5000}))
	code(t, "a page that is too large", err, connect.CodeInvalidArgument)
	ctx, cancel := context.WithTimeout(t.Context(), 15*time.Second)
	defer cancel()
	stream, err := client.TailAudit(ctx, connect.NewRequest(&adminv1.TailAuditRequest{Filter: filter, AfterSequence: found.Msg.GetRecords()[0].GetSequence()}))
	enginetest.Must(t, err)
	add(3, ada.ID.String())
	if !stream.Receive() || stream.Msg().GetRecord().GetRecord().GetNumber() != 3 || stream.Msg().GetRecord().GetPersonName() != "ada" {
		t.Errorf("followed %v, %v", stream.Msg(), stream.Err())
	}
	cancel()
	for stream.Receive() {
		continue
	}
}

// noted collects what is recorded.
type noted struct{ records []*auditv1.AuditRecord }

func (n *noted) Note(r *auditv1.AuditRecord) { n.records = append(n.records, r) }

func TestReadingAuditIsRecordedWithoutWhatIsLookedForInPeoplesValues(t *testing.T) {
	s, trail := newSite(t), &noted{}
	server := enginetest.Serve(t, admin.NewHandler(admin.Config{
		Engine: s.Engine, Secrets: s.Vault, Fleet: s.roster, Discoverer: discover.Discoverer{}, Audit: s.audit, Activity: s.activity, Sessions: s.sessions, Trail: trail, Log: s.Log,
	}))
	client := adminv1connect.NewAuditServiceClient(enginetest.H2C(t), server.URL, s.option)
	filter := &adminv1.AuditFilter{Connector: "github", Text: "planted", Arguments: []*adminv1.ArgumentEquals{{Path: "a", JsonValue: `"planted"`}}}
	_, err := client.SearchAudit(t.Context(), connect.NewRequest(&adminv1.SearchAuditRequest{Filter: filter}))
	enginetest.Must(t, err)
	_, err = client.CountAudit(t.Context(), connect.NewRequest(&adminv1.CountAuditRequest{Filter: filter}))
	enginetest.Must(t, err)
	if len(trail.records) != 2 {
		t.Fatalf("%d records", len(trail.records))
	}
	for _, r := range trail.records {
		said := r.String()
		if r.GetKind() != auditv1.Kind_KIND_AUDIT_READ || r.GetActor().GetId() == "" || !strings.Contains(said, "github") || strings.Contains(said, "planted") {
			t.Fatalf("recorded: %s", said)
		}
	}
	index := adminv1connect.NewAuditIndexServiceClient(enginetest.H2C(t), server.URL, s.option)
	got, err := index.GetAuditIndex(t.Context(), connect.NewRequest(&adminv1.GetAuditIndexRequest{}))
	if err != nil || got.Msg.GetConfigured() {
		t.Fatalf("%v, %v", got, err)
	}
	stream, err := index.RebuildAuditIndex(t.Context(), connect.NewRequest(&adminv1.RebuildAuditIndexRequest{}))
	enginetest.Must(t, err)
	for stream.Receive() {
		t.Fatal("an index that is not there was built")
	}
	code(t, "a rebuild without an index", stream.Err(), connect.CodeFailedPrecondition)
}
