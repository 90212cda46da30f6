package approval_test

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"html"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"regexp"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/uuid"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"
	auditv1 "sallyport.dev/proto/gen/sallyport/audit/v1"
	eventv1 "sallyport.dev/proto/gen/sallyport/event/v1"
	fleetv1 "sallyport.dev/proto/gen/sallyport/fleet/v1"
	policyv1 "sallyport.dev/proto/gen/sallyport/policy/v1"

	"sallyport.dev/dataplane/policy"

	"sallyport.dev/controlplane/internal/approval"
	"sallyport.dev/controlplane/internal/core"
	"sallyport.dev/controlplane/internal/engine/enginetest"
	"sallyport.dev/controlplane/internal/signin"
	"sallyport.dev/controlplane/internal/signin/signintest"
)

// site is two control planes over one log and one store, with people who sign in at a real provider.
const hidden = "{\"branch\":\"ma\\u0069n\u202e\"}" // what a page must not take for markup of direction

type site struct {
	*enginetest.Plane
	t             *testing.T
	web           *httptest.Server
	okta          *signintest.Provider
	ann, bob, eve *core.User
	leads         *core.Group
	proxy         *core.Token
	one, two      *approval.Server
	trail         *trail
	ahead         atomic.Int64 // of the clock
}

type trail struct {
	mu  sync.Mutex
	all []*auditv1.AuditRecord
}

func (t *trail) Note(r *auditv1.AuditRecord) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.all = append(t.all, r)
}

// count is how often something was recorded.
func (t *trail) count(action string) int {
	t.mu.Lock()
	defer t.mu.Unlock()
	n := 0
	for _, r := range t.all {
		if r.GetAction() == action {
			n++
		}
	}
	return n
}

func newSite(t *testing.T, hook approval.Webhook) *site {
	t.Helper()
	s := &site{Plane: enginetest.New(t).Start(nil), t: t, trail: &trail{}}
	s.Directory("okta")
	s.ann, s.bob, s.eve = s.User("okta", "ann"), s.User("okta", "bob"), s.User("okta", "eve")
	s.leads = s.Group("okta", "Leads", s.bob)
	s.okta = signintest.NewProvider(t, "ext-ann")
	secret, err := s.Vault.PutSignInSecret(t.Context(), "okta", signintest.Secret)
	enginetest.Must(t, err)
	s.Do(core.NewSetSignIn("okta", &policyv1.SignIn{Issuer: s.okta.URL, ClientId: signintest.ClientID, SecretId: secret}))
	id, _ := s.Token(eventv1.TokenKind_TOKEN_KIND_PROXY, "eu-1")
	s.proxy = s.Engine.State().Token(id)
	mux := http.NewServeMux()
	s.web = enginetest.Serve(t, mux)
	people, err := signin.New(signin.Config{Engine: s.Engine, Store: s.Shared, Secrets: s.Vault, URL: s.web.URL, Log: s.Log})
	enginetest.Must(t, err)
	for _, server := range []**approval.Server{&s.one, &s.two} {
		*server, err = approval.New(approval.Config{
			Engine: s.Engine, Store: s.Shared, Seals: s.Vault, People: people, Trail: s.trail, URL: s.web.URL, Webhook: hook, Log: s.Log,
			Now: func() time.Time { return time.Now().Add(time.Duration(s.ahead.Load())) },
		})
		enginetest.Must(t, err)
	}
	mux.Handle("/", people.Handler())
	for _, path := range []string{"/confirm/", "/reviews", "/reviews/"} {
		mux.Handle(path, s.one.Handler())
	}
	return s
}

func called(arguments string) *fleetv1.AskedCall {
	return &fleetv1.AskedCall{ClientId: "agent", Connector: "github", Tool: "delete_branch", Method: "tools/call", Arguments: []byte(arguments)}
}

// digest is that by which a call's arguments are known.
func (s *site) digest(arguments string) []byte {
	s.t.Helper()
	sum := sha256.Sum256([]byte(arguments))
	digest, err := s.Vault.Digest(s.t.Context(), s.ann.ID, "arguments", sum[:])
	enginetest.Must(s.t, err)
	return digest
}

func (s *site) confirm(at *approval.Server, arguments string) *fleetv1.ConfirmResponse {
	s.t.Helper()
	res, err := at.Confirm(s.t.Context(), s.Engine.State().User(s.ann.ID), s.proxy, &policy.Duties{Confirm: 2, Because: []string{"rule 1 of okta/Eng"}}, &fleetv1.ConfirmRequest{Call: called(arguments)})
	enginetest.Must(s.t, err)
	return res
}

var formField = regexp.MustCompile(`name="form" value="([^"]+)"`)

// signedIn is somebody's browser.
func (s *site) signedIn(name string) *signintest.Browser {
	s.t.Helper()
	s.okta.Become("ext-" + name)
	b := signintest.NewBrowser(s.t)
	if status, body, _ := b.Get(s.web.URL + "/reviews"); status != http.StatusOK || !strings.Contains(body, name) {
		s.t.Fatalf("%s is not signed in: %d %s", name, status, body)
	}
	return b
}

// answer opens a page, and answers its form.
func (s *site) answer(b *signintest.Browser, at, said string) (status int, body string) {
	s.t.Helper()
	status, body, _ = b.Get(at)
	form := formField.FindStringSubmatch(body)
	if status != http.StatusOK || form == nil {
		return status, body
	}
	status, body, _ = b.Post(at, url.Values{"form": {html.UnescapeString(form[1])}, "answer": {said}})
	return status, body
}

const (
	pending = fleetv1.AnswerState_ANSWER_STATE_PENDING
	given   = fleetv1.AnswerState_ANSWER_STATE_GIVEN
	refused = fleetv1.AnswerState_ANSWER_STATE_REFUSED
)

func TestAPersonConfirmsExactlyTheCallThatThePageShowsOnce(t *testing.T) {
	s := newSite(t, approval.Webhook{})
	first := s.confirm(s.one, hidden)
	if first.GetState() != pending || s.confirm(s.two, hidden).GetUrl() != first.GetUrl() {
		t.Fatalf("asked %v", first)
	}
	other := s.confirm(s.one, `{"branch":"dev"}`)
	if other.GetUrl() == first.GetUrl() {
		t.Fatal("other arguments are the same question")
	}
	ann := s.signedIn("ann")
	status, body, _ := ann.Get(first.GetUrl())
	digest := fmt.Sprintf("%x", s.digest(hidden))
	if status != http.StatusOK || !strings.Contains(body, "delete_branch") || !strings.Contains(body, digest) || !strings.Contains(body, `\u202e`) || strings.Contains(body, "\u202e") {
		t.Fatalf("the page: %d %s", status, body)
	}
	if status, body := s.answer(ann, first.GetUrl(), "yes"); status != http.StatusOK || !strings.Contains(body, "You said yes") {
		t.Fatalf("answered: %d %s", status, body)
	}
	if got := s.confirm(s.one, `{"branch":"dev"}`).GetState(); got != pending {
		t.Errorf("the other call is %v", got)
	}
	// Of many proxies that ask at once, at whichever control plane, one is told yes.
	var yeses atomic.Int32
	var all sync.WaitGroup
	for i := range 8 {
		all.Go(func() {
			if s.confirm([]*approval.Server{s.one, s.two}[i%2], hidden).GetState() == given {
				yeses.Add(1)
			}
		})
	}
	all.Wait()
	if n := yeses.Load(); n != 1 {
		t.Errorf("a yes was good %d times", n)
	}
	if s.trail.count("confirmation_given") != 1 || s.trail.count("confirmation_used") != 1 || s.trail.count("confirmation_asked") < 3 {
		t.Errorf("recorded %v", s.trail.all)
	}
}

func TestOnlyThePersonThemselfConfirmsWithAFormOfTheirOwn(t *testing.T) {
	s := newSite(t, approval.Webhook{})
	asked := s.confirm(s.one, `{}`)
	if status, body := s.answer(s.signedIn("bob"), asked.GetUrl(), "yes"); status != http.StatusForbidden || strings.Contains(body, "delete_branch") {
		t.Errorf("another person: %d %s", status, body)
	}
	ann := s.signedIn("ann")
	for name, form := range map[string]string{"none": "", "made up": "AAAA"} {
		if status, _, _ := ann.Post(asked.GetUrl(), url.Values{"form": {form}, "answer": {"yes"}}); status != http.StatusForbidden {
			t.Errorf("a form that is %s: %d", name, status)
		}
	}
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, asked.GetUrl(), strings.NewReader("answer=yes"))
	enginetest.Must(t, err)
	req.Header.Set("Origin", "https://evil.example")
	req.Header.Set("Sec-Fetch-Site", "cross-site")
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	if status, _, _ := ann.Send(req); status != http.StatusForbidden {
		t.Errorf("a form of another site: %d", status)
	}
	// A form of a question that was asked before answers no new one.
	_, body, _ := ann.Get(asked.GetUrl())
	old := formField.FindStringSubmatch(body)[1]
	s.answer(ann, asked.GetUrl(), "no")
	if got := s.confirm(s.two, `{}`).GetState(); got != refused {
		t.Errorf("after no: %v", got)
	}
	again := s.confirm(s.two, `{}`)
	if status, _, _ := ann.Post(again.GetUrl(), url.Values{"form": {html.UnescapeString(old)}, "answer": {"yes"}}); status != http.StatusForbidden {
		t.Errorf("an old form: %d", status)
	}
	if got := s.confirm(s.one, `{}`).GetState(); got != pending {
		t.Errorf("after all that: %v", got)
	}
	if s.trail.count("confirmation_foreign") == 0 {
		t.Error("nobody recorded that another tried")
	}
}

func TestAConfirmationEndsByItsTimeAndWithThePersonsGeneration(t *testing.T) {
	s := newSite(t, approval.Webhook{})
	ann := s.signedIn("ann")
	s.answer(ann, s.confirm(s.one, `{}`).GetUrl(), "yes")
	s.ahead.Store(int64(6 * time.Minute))
	if got := s.confirm(s.one, `{}`).GetState(); got != pending {
		t.Errorf("six minutes after the yes: %v", got)
	}
	asked := s.confirm(s.one, `{"n":1}`)
	s.answer(ann, asked.GetUrl(), "yes")
	s.Do(core.RevokeSessions{ID: s.ann.ID})
	if got := s.confirm(s.one, `{"n":1}`); got.GetState() != pending || got.GetUrl() == asked.GetUrl() {
		t.Errorf("after the sessions were revoked: %v", got)
	}
}

func TestWhatWasSaidInAClientIsUsedOnceForAllControlPlanes(t *testing.T) {
	s := newSite(t, approval.Webhook{})
	r := &fleetv1.RedeemRequest{Id: uuid.NewString(), Connector: "github", Tool: "t", ArgumentsSha256: make([]byte, 32), Generation: s.ann.Generation, ExpiresAt: timestamppb.New(time.Now().Add(time.Minute))}
	var first atomic.Int32
	var all sync.WaitGroup
	for i := range 8 {
		all.Go(func() {
			ok, err := []*approval.Server{s.one, s.two}[i%2].Redeem(t.Context(), s.ann, s.proxy, r)
			if err != nil {
				t.Error(err)
			}
			if ok {
				first.Add(1)
			}
		})
	}
	all.Wait()
	if n := first.Load(); n != 1 {
		t.Errorf("it was good %d times", n)
	}
	r.Id, r.Generation = uuid.NewString(), s.ann.Generation+1
	if ok, err := s.one.Redeem(t.Context(), s.ann, s.proxy, r); ok || err != nil {
		t.Errorf("of another generation: %v %v", ok, err)
	}
	r.Generation, r.ExpiresAt = s.ann.Generation, timestamppb.New(time.Now().Add(-5*time.Minute))
	if ok, err := s.one.Redeem(t.Context(), s.ann, s.proxy, r); ok || err != nil {
		t.Errorf("too old: %v %v", ok, err)
	}
	if s.trail.count("confirmation_used") != 1 || s.trail.count("confirmation_used_again") != 9 {
		t.Errorf("recorded %v", s.trail.all)
	}
}

// duties are those of a rule that has a call reviewed by the leads.
func (s *site) duties() *policy.Duties {
	s.t.Helper()
	entries := func(yield func(*fleetv1.Entry) bool) {
		for _, e := range []*fleetv1.Entry{
			{Value: &fleetv1.Entry_User{User: &fleetv1.User{Id: s.ann.ID[:], Active: true, Generation: 1, Groups: []uint32{1}}}},
			{Value: &fleetv1.Entry_Group{Group: &fleetv1.Group{Number: 1, Id: make([]byte, 16), Name: "okta/Eng"}}},
			{Value: &fleetv1.Entry_Connector{Connector: &policyv1.Connector{Id: "github", Url: "https://up.example"}}},
			{Value: &fleetv1.Entry_Catalogue{Catalogue: &fleetv1.Catalogue{Connector: "github", Tools: []*policyv1.Tool{{Name: "delete_branch", Definition: []byte(`{"name":"delete_branch","inputSchema":{"type":"object"}}`)}}}}},
			{Value: &fleetv1.Entry_Grant{Grant: &fleetv1.Grant{Group: 1, Connector: "github", Rules: []*policyv1.Rule{
				{Allow: []string{"*"}, After: policyv1.Duty_DUTY_REVIEW, Review: &policyv1.Review{Approvers: []string{s.leads.ID.String()}}},
			}}}},
		} {
			if !yield(e) {
				return
			}
		}
	}
	table, err := policy.Compile(1, entries)
	enginetest.Must(s.t, err)
	d := table.Decide(policy.Request{Person: s.ann.ID, Connector: "github", Tool: "delete_branch", Arguments: policy.NoArguments, Now: time.Now()})
	if d.Duties.Review() == "" {
		s.t.Fatalf("decided %+v", d)
	}
	return d.Duties
}

func (s *site) review(at *approval.Server, arguments string, use bool, wait time.Duration) *fleetv1.ReviewResponse {
	s.t.Helper()
	res, err := at.Review(s.t.Context(), s.Engine.State().User(s.ann.ID), s.proxy, s.duties(), &fleetv1.ReviewRequest{Call: called(arguments), Use: use, Wait: durationpb.New(wait)})
	enginetest.Must(s.t, err)
	return res
}

func TestAnApproverSeesTheWholeCallAndApprovesItOnce(t *testing.T) {
	s := newSite(t, approval.Webhook{})
	asked := s.review(s.one, `{"branch":"main"}`, false, 0)
	if asked.GetState() != pending || s.review(s.two, `{"branch":"main"}`, false, 0).GetId() != asked.GetId() || s.review(s.one, `{"branch":"dev"}`, false, 0).GetId() == asked.GetId() {
		t.Fatalf("asked %v", asked)
	}
	page := s.web.URL + "/reviews/" + asked.GetId()
	for _, name := range []string{"eve", "ann"} {
		if _, body := s.answer(s.signedIn(name), page, "yes"); strings.Contains(body, "You approved") {
			t.Errorf("%s approved it", name)
		}
	}
	bob := s.signedIn("bob")
	if _, body, _ := bob.Get(s.web.URL + "/reviews"); !strings.Contains(body, asked.GetId()) {
		t.Errorf("bob does not see what waits for him: %s", body)
	}
	if _, body, _ := bob.Get(page); !strings.Contains(body, "&#34;branch&#34;: &#34;main&#34;") || !strings.Contains(body, fmt.Sprintf("%x", s.digest(`{"branch":"main"}`))) {
		t.Errorf("the page: %s", body)
	}
	if status, body := s.answer(bob, page, "yes"); status != http.StatusOK || !strings.Contains(body, "You approved") {
		t.Fatalf("approved: %d %s", status, body)
	}
	if got := s.review(s.two, `{"branch":"main"}`, false, 0).GetState(); got != given {
		t.Errorf("approved, and it is %v", got)
	}
	var used atomic.Int32
	var all sync.WaitGroup
	for i := range 6 {
		all.Go(func() {
			if s.review([]*approval.Server{s.one, s.two}[i%2], `{"branch":"main"}`, true, 0).GetState() == given {
				used.Add(1)
			}
		})
	}
	all.Wait()
	if n := used.Load(); n != 1 {
		t.Errorf("an approval was good %d times", n)
	}
	if s.trail.count("review_approved") != 1 || s.trail.count("review_used") != 1 || s.trail.count("review_asked") < 2 {
		t.Errorf("recorded %v", s.trail.all)
	}
}

func TestArgumentsThatWaitAreSealedForTheirPersonAndGoWithThem(t *testing.T) {
	s := newSite(t, approval.Webhook{})
	asked := s.review(s.one, `{"note":"needle-in-the-arguments"}`, false, 0)
	s.confirm(s.one, `{"note":"needle-in-the-arguments"}`)
	if files := enginetest.OnDisk(t, s.Dir, []byte("needle-in-the-arguments")); len(files) > 0 {
		t.Errorf("the arguments lie in the open in %v", files)
	}
	// Nor does what lies there tell by trying whether it is of arguments that can be guessed, once the key is gone.
	r := s.Engine.State().Review(uuid.MustParse(asked.GetId()))
	if sum := sha256.Sum256([]byte(`{"note":"needle-in-the-arguments"}`)); bytes.Equal(r.Asked.GetArgumentsSha256(), sum[:]) || len(enginetest.OnDisk(t, s.Dir, sum[:])) > 0 ||
		len(enginetest.OnDisk(t, s.Dir, []byte(hex.EncodeToString(sum[:])))) > 0 {
		t.Error("a digest of the arguments is kept that no key is needed for")
	}
	if digest := s.digest(`{"note":"needle-in-the-arguments"}`); len(enginetest.OnDisk(t, s.Dir, digest)) == 0 {
		t.Error("the keyed digest is not where it is looked for: what was not found above says nothing")
	}
	if got, gone, err := s.two.Arguments(t.Context(), r); gone || err != nil || string(got) != `{"note":"needle-in-the-arguments"}` {
		t.Errorf("read %s %v %v", got, gone, err)
	}
	enginetest.Must(t, s.Vault.DestroyKey(t.Context(), s.ann.ID))
	if got, gone, err := s.two.Arguments(t.Context(), r); !gone || err != nil {
		t.Errorf("after the erasure: %s %v %v", got, gone, err)
	}
}

func TestAnAgentThatWaitsIsToldWhenItIsApproved(t *testing.T) {
	s := newSite(t, approval.Webhook{})
	id := uuid.MustParse(s.review(s.one, `{}`, false, 0).GetId())
	told := make(chan fleetv1.AnswerState, 1)
	go func() { told <- s.review(s.two, `{}`, false, time.Minute).GetState() }()
	_, err := s.one.Answer(t.Context(), s.bob, enginetest.Actor, id, true, "")
	enginetest.Must(t, err)
	select {
	case got := <-told:
		if got != given {
			t.Errorf("told %v", got)
		}
	case <-time.After(30 * time.Second):
		t.Error("nobody was told")
	}
}

func TestAnAgentThatLoopsDoesNotFillTheStore(t *testing.T) {
	s := newSite(t, approval.Webhook{})
	var err error
	for i := 0; i < 100 && err == nil; i++ {
		_, err = s.one.Confirm(t.Context(), s.ann, s.proxy, &policy.Duties{Confirm: 2}, &fleetv1.ConfirmRequest{Call: called(fmt.Sprintf(`{"n":%d}`, i))})
	}
	if err == nil || !strings.Contains(err.Error(), "too many") {
		t.Errorf("asked 100 times: %v", err)
	}
}

func TestTheWebhookIsToldOfEachReviewSigned(t *testing.T) {
	key := []byte("a key of more than 24 bytes")
	got := make(chan *http.Request, 10)
	bodies := make(chan []byte, 10)
	hook := enginetest.Serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		got <- r
		bodies <- body
		w.WriteHeader(http.StatusNoContent)
	}))
	s := newSite(t, approval.Webhook{URL: hook.URL, Key: key})
	ctx, cancel := context.WithCancel(t.Context())
	var running sync.WaitGroup
	running.Go(func() { s.one.Run(ctx) })
	running.Go(func() { s.two.Run(ctx) })
	asked := s.review(s.one, `{"secret":"not in the webhook"}`, false, 0)
	var r *http.Request
	select {
	case r = <-got:
	case <-time.After(30 * time.Second):
		t.Fatal("the webhook was not told")
	}
	body := <-bodies
	mac := hmac.New(sha256.New, key)
	fmt.Fprintf(mac, "%s.%s.%s", r.Header.Get("Webhook-Id"), r.Header.Get("Webhook-Timestamp"), body)
	if want := "v1," + base64.StdEncoding.EncodeToString(mac.Sum(nil)); r.Header.Get("Webhook-Signature") != want {
		t.Errorf("signed %q, want %q", r.Header.Get("Webhook-Signature"), want)
	}
	var told struct {
		Type string
		Data struct{ Review, Page string }
	}
	if err := json.Unmarshal(body, &told); err != nil || told.Type != "review.requested" || told.Data.Review != asked.GetId() || told.Data.Page != s.web.URL+"/reviews/"+asked.GetId() || strings.Contains(string(body), "not in the webhook") {
		t.Errorf("told %s", body)
	}
	// Both control planes look again: it is told no second time.
	other := s.review(s.two, `{"n":2}`, false, 0)
	if r := <-got; r.Header.Get("Webhook-Id") != other.GetId() {
		t.Errorf("told of %s again", r.Header.Get("Webhook-Id"))
	}
	cancel()
	running.Wait()
	if len(got) > 0 {
		t.Errorf("told %d times too often", len(got))
	}
	for _, bad := range []approval.Webhook{{URL: "http://hook.example", Key: key}, {URL: "https://hook.example", Key: []byte("short")}} {
		if bad.Check() == nil {
			t.Errorf("%s with a key of %d bytes was taken", bad.URL, len(bad.Key))
		}
	}
}
