package gateway

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"unicode"

	"github.com/google/uuid"
	policyv1 "sallyport.dev/proto/gen/sallyport/policy/v1"

	"sallyport.dev/dataplane/internal/mcp"
	"sallyport.dev/dataplane/internal/strictjson"
	"sallyport.dev/dataplane/internal/upstream"
)

// consented is what the connector's setting lets an upstream ask of agents.
func consented(c *policyv1.Connector) mcp.Asks {
	return mcp.Asks{Sampling: c.GetConsent().GetSampling(), Elicitation: c.GetConsent().GetElicitation(), Roots: c.GetConsent().GetRoots()}
}

// offers is what the agent's program can be asked, by its own word.
func (x *exchange) offers() []byte {
	if x.revision.Stateless() {
		return x.message.Meta.Capabilities
	}
	return []byte(x.session.Capabilities)
}

// mayStillAsk tells whether a connector may ask this of agents now: its setting may have changed while a person was asked.
func (g *Gateway) mayStillAsk(connector, method string) bool {
	table, err := g.Replica.Usable(g.Now())
	if err != nil {
		return false
	}
	settings, offered := table.Connector(connector)
	return offered && consented(settings).Of(method)
}

// errNotAsked refuses what an upstream asks.
var errNotAsked = &mcp.Error{Code: mcp.CodeMethodNotFound, Message: "the gateway does not let this be asked of the client, or the client does not offer it"}

// question makes of what an upstream asks what the agent is asked, or says why not: the connector's setting and the agent's program
// must both allow it, its person must see who asks, and no form may ask for secrets: what a form is filled with passes through the
// agent. A page at an address of the upstream's own (URL mode) is where they belong.
func question(settings *policyv1.Connector, may mcp.Asks, a mcp.Asked) (mcp.Asked, *mcp.Error) {
	if !may.Of(a.Method) {
		return a, errNotAsked
	}
	if a.Method != mcp.MethodElicit {
		return a, nil
	}
	v, err := strictjson.Decode(a.Params, strictjson.Limits{MaxBytes: maxElicitation})
	params, ok := v.(map[string]any)
	if err != nil || !ok {
		return a, mcp.InvalidParams("the elicitation cannot be read")
	}
	switch params["mode"] {
	case nil, "form":
		if !may.Form {
			return a, errNotAsked
		}
		if asksForSecrets(params) {
			return a, mcp.InvalidParams("an elicitation may not ask for passwords, keys or other secrets")
		}
	case "url":
		if !may.URL {
			return a, errNotAsked
		}
		if address, _ := params["url"].(string); !linkable(address) {
			return a, mcp.InvalidParams("an elicitation may lead to an https URL without a user only")
		}
	default:
		return a, errNotAsked
	}
	message, _ := params["message"].(string)
	params["message"] = "[" + title(settings) + "] " + message
	// What was read strictly can be written again.
	if a.Params, err = json.Marshal(params); err != nil {
		return a, mcp.InvalidParams("the elicitation cannot be read")
	}
	return a, nil
}

// linkable tells whether a person may be sent to an address. By http it may be this machine alone.
func linkable(address string) bool {
	to, err := url.Parse(address)
	if err != nil || to.Host == "" || to.User != nil || strings.ContainsFunc(address, unicode.IsControl) {
		return false
	}
	return to.Scheme == "https" || to.Scheme == "http" && hostname(to.Host) == "localhost"
}

// refusal is what an agent is told where an upstream answers with an error that means something between it and its client alone.
// Nothing: the error is passed as it came.
func (g *Gateway) refusal(x *exchange, t target, settings *policyv1.Connector, response *upstream.Response, m *mcp.Message) (said []byte, required *mcp.InputRequired, e *mcp.Error) {
	var failure struct {
		Code    int    `json:"code"`
		Message string `json:"message"`
		Data    struct {
			Elicitations []json.RawMessage `json:"elicitations"`
		} `json:"data"`
	}
	if json.Unmarshal(m.Failure, &failure) != nil {
		return nil, nil, nil //nolint:nilerr // what cannot be read is the agent's to see
	}
	switch {
	case failure.Code == mcp.CodeMissingCapability && !x.revision.Stateless():
		return nil, nil, &mcp.Error{Code: mcp.CodeInternal, Message: "connector " + settings.GetId() + " needs something of its client that this client, or its protocol version, does not have"}
	case failure.Code == mcp.CodeMissingCapability && len(mcp.WithoutCapabilities(x.offers(), consented(settings), g.JSON)) != len(x.offers()):
		return nil, nil, &mcp.Error{Code: mcp.CodeInternal, Message: "connector " + settings.GetId() + " needs to ask something of its client, which its consent setting does not let it: an administrator can change that"}
	case failure.Code != mcp.CodeURLElicitation || !response.Session() && x.revision.Stateless(): // it has no such code
		return nil, nil, nil
	}
	// The person is to open a page before the call is made again.
	required = &mcp.InputRequired{}
	for i, raw := range failure.Data.Elicitations {
		a, e := g.question(x, settings, mcp.Asked{Key: fmt.Sprintf("page%d", i+1), Method: mcp.MethodElicit, Params: raw})
		if e != nil {
			return nil, nil, &mcp.Error{Code: mcp.CodeInternal, Message: "connector " + settings.GetId() + " wants its person to open a page first, which it may not ask for: " + e.Message}
		}
		required.Asked = append(required.Asked, a)
		failure.Data.Elicitations[i] = a.Params
	}
	if x.revision.Stateless() {
		return g.inputRequiredOf(x, t, required), nil, nil
	}
	// Written anew, so that nothing but what was looked at comes through.
	labelled, err := json.Marshal(failure)
	if err != nil {
		return nil, nil, nil //nolint:nilerr // what was read can be written
	}
	return mcp.AppendFailure(nil, x.message.ID, labelled), nil, nil
}

// maxElicitation bounds what is asked of a person.
const maxElicitation = 64 << 10

func title(c *policyv1.Connector) string {
	if t := strings.Map(visible, c.GetTitle()); t != "" {
		return t
	}
	return c.GetId()
}

func visible(r rune) rune {
	if r < ' ' || r == '[' || r == ']' {
		return -1
	}
	return r
}

// secretWords stand in questions for what may not be asked, however they are spaced and joined.
var secretWords = []string{
	"password", "passwd", "passphrase", "passcode", "secret", "apikey", "apitoken", "accesstoken", "bearertoken", "refreshtoken", "sessiontoken",
	"authtoken", "privatekey", "signingkey", "encryptionkey", "sshkey", "seedphrase", "recoveryphrase", "credential", "onetimecode", "verificationcode", "securitycode",
	"authenticationcode", "authenticatorcode", "logincode", "smscode", "mfacode", "2facode", "recoverycode", "backupcode", "pincode", "pinnumber", "creditcard",
	"cardnumber", "socialsecurity",
}

// shortSecretWords count only by themselves: "ssn" is not in "lessness".
var shortSecretWords = []string{"otp", "pwd", "cvv", "cvc", "ssn"}

// secretNames are names of fields that say it where the same word in a sentence need not ("pin this message").
var secretNames = []string{"pin", "pass", "token"}

func secretive(text string) bool {
	text = plain(text)
	for _, word := range shortSecretWords {
		for from := 0; ; {
			i := strings.Index(text[from:], word)
			if i < 0 {
				break
			}
			i += from
			if !letter(text, i-1) && !letter(text, i+len(word)) {
				return true
			}
			from = i + len(word)
		}
	}
	joined := joined(text)
	return slices.ContainsFunc(secretWords, func(word string) bool { return strings.Contains(joined, word) })
}

func letter(s string, at int) bool { return at >= 0 && at < len(s) && s[at] >= 'a' && s[at] <= 'z' }

// plain is a text in lower case as it looks: without what is not seen, and letters that look alike as the one of them.
func plain(text string) string {
	return strings.Map(func(r rune) rune {
		switch {
		case unicode.In(r, unicode.Cf, unicode.Mn):
			return -1
		case r >= '！' && r <= '～': // the wide forms of ASCII
			r -= '！' - '!'
		}
		r = unicode.ToLower(r)
		if same, ok := looksLike[r]; ok {
			return same
		}
		return r
	}, text)
}

// looksLike holds letters of other scripts that look like those that the words are written with.
var looksLike = map[rune]rune{
	'а': 'a', 'α': 'a', 'с': 'c', 'ԁ': 'd', 'е': 'e', 'ё': 'e', 'і': 'i', 'ι': 'i', 'ı': 'i', 'к': 'k', 'κ': 'k', 'о': 'o', 'ο': 'o', 'р': 'p', 'ρ': 'p', 'ѕ': 's', 'ԝ': 'w', 'у': 'y', 'ѵ': 'v', 'ν': 'v',
}

// joined is a plain text without what stands between its letters, with letters for the signs that are written in their place.
func joined(text string) string {
	return strings.Map(func(r rune) rune {
		switch {
		case r == '0':
			return 'o'
		case r == '3':
			return 'e'
		case r == '@':
			return 'a'
		case r == '$':
			return 's'
		case unicode.IsLetter(r) || unicode.IsDigit(r):
			return r
		}
		return -1
	}, text)
}

// asksForSecrets looks at all words of an elicitation: its message, the names of its fields and what is said of them.
func asksForSecrets(params map[string]any) bool {
	for key, one := range params {
		if key != "_meta" && holdsSecrets(one) {
			return true
		}
	}
	return false
}

func holdsSecrets(v any) bool {
	switch v := v.(type) {
	case string:
		return secretive(v)
	case []any:
		return slices.ContainsFunc(v, holdsSecrets)
	case map[string]any:
		for key, one := range v {
			if secretive(key) || slices.Contains(secretNames, joined(plain(key))) && !yesOrNo(one) || holdsSecrets(one) {
				return true
			}
		}
	}
	return false
}

// yesOrNo tells whether a field takes nothing else.
func yesOrNo(field any) bool {
	schema, _ := field.(map[string]any)
	return schema["type"] == "boolean"
}

// asks are the questions that agents of the session era were sent and did not answer yet.
type asks struct {
	mu  sync.Mutex
	all map[string]*asking
}

type asking struct {
	id       string
	person   uuid.UUID
	client   string
	session  string
	answered chan *mcp.Message
}

func newAsks() *asks { return &asks{all: map[string]*asking{}} }

// maxAsking bounds the questions that are open at a proxy.
const maxAsking = 50_000

var errBusy = errors.New("too many questions are open")

// open registers a question. Its id names the proxy, to which the answer must find back.
func (a *asks) open(proxy string, x *exchange) (*asking, error) {
	q := &asking{id: proxy + "." + uuid.NewString(), person: x.ID, client: x.ClientID, session: x.session.ID, answered: make(chan *mcp.Message, 1)}
	a.mu.Lock()
	defer a.mu.Unlock()
	if len(a.all) >= maxAsking {
		return nil, errBusy
	}
	a.all[q.id] = q
	return q, nil
}

func (a *asks) close(q *asking) {
	a.mu.Lock()
	defer a.mu.Unlock()
	delete(a.all, q.id)
}

// answer hands an agent's response to whoever asked: its own session's, once.
func (a *asks) answer(x *exchange) bool {
	id, _ := strictjson.Text(x.message.ID)
	a.mu.Lock()
	defer a.mu.Unlock()
	q := a.all[id]
	if q == nil || q.person != x.ID || q.client != x.ClientID || q.session != x.session.ID {
		return false
	}
	delete(a.all, id)
	kept := &mcp.Message{}
	if mcp.ReadMessage(bytes.Clone(x.message.Raw), strictjson.Limits{MaxBytes: len(x.message.Raw)}, kept) != nil {
		return false
	}
	q.answered <- kept
	return true
}

// askedBy is the proxy that asked what a response answers.
func askedBy(m *mcp.Message) string {
	id, _ := strictjson.Text(m.ID)
	proxy, _, _ := cutLast(id)
	return proxy
}

// respond takes an agent's answer to a question.
func (g *Gateway) respond(w http.ResponseWriter, x *exchange) {
	if !g.asks.answer(x) {
		mcp.WriteError(w, x.revision, nil, &mcp.Error{Code: mcp.CodeInvalidRequest, Message: "nothing is asked of this client under this id: it was answered, or what asked has ended", Status: http.StatusBadRequest})
		return
	}
	w.WriteHeader(http.StatusAccepted)
}

// await waits for the answer to a question.
func (g *Gateway) await(ctx context.Context, q *asking) (*mcp.Message, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, g.AskFor, errUnanswered)
	defer cancel()
	select {
	case m := <-q.answered:
		return m, nil
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}

var errUnanswered = errors.New("nobody answered in time")

// relay asks the agent what an upstream of the session era asks, both having sessions: the answer goes back while the upstream's
// stream goes on.
func (g *Gateway) relay(ctx context.Context, to *answer, x *exchange, settings *policyv1.Connector, response *upstream.Response, m *mcp.Message) error {
	id := bytes.Clone(m.ID)
	may, _ := mcp.ReadCapabilities(x.offers(), consented(settings), g.JSON)
	asked, e := question(settings, may, mcp.Asked{Method: m.Method, Params: m.Params})
	if e != nil {
		response.Refuse(id, e)
		return nil
	}
	q, err := g.asks.open(g.Proxy, x)
	if err != nil {
		response.Refuse(id, &mcp.Error{Code: mcp.CodeInternal, Message: err.Error()})
		return nil //nolint:nilerr // the upstream was told; the call goes on
	}
	if err := to.event(mcp.AppendRequest(nil, strictjson.Quote(nil, q.id), asked)); err != nil {
		g.asks.close(q)
		return err
	}
	to.background.Go(func() {
		defer g.asks.close(q)
		said, err := g.await(ctx, q)
		if err != nil {
			response.Refuse(id, &mcp.Error{Code: mcp.CodeInternal, Message: "the client did not answer"})
			return
		}
		if !g.mayStillAsk(settings.GetId(), asked.Method) {
			response.Refuse(id, errNotAsked)
			return
		}
		if err := response.Reply(ctx, mcp.AppendAnswer(nil, id, said)); err != nil {
			g.Log.DebugContext(ctx, "an upstream did not take an answer that it asked for", "connector", settings.GetId(), "error", err)
		}
	})
	return nil
}

// inquire asks an agent of the session era what an upstream of the stateless era asks by its result, as inputRequired read it, and
// returns the answers, raw results by key.
func (g *Gateway) inquire(ctx context.Context, to *answer, x *exchange, required *mcp.InputRequired) (map[string]json.RawMessage, error) {
	answers := map[string]json.RawMessage{}
	for _, a := range required.Asked {
		q, err := g.asks.open(g.Proxy, x)
		if err != nil {
			return nil, err
		}
		err = to.event(mcp.AppendRequest(nil, strictjson.Quote(nil, q.id), a))
		var said *mcp.Message
		if err == nil {
			said, err = g.await(ctx, q)
		}
		g.asks.close(q)
		switch {
		case err != nil:
			return nil, err
		case said.Result != nil:
			answers[a.Key] = said.Result
		case a.Method == mcp.MethodElicit:
			answers[a.Key] = json.RawMessage(`{"action":"cancel"}`)
		default:
			return nil, errors.New("the client could not answer what the upstream asks")
		}
	}
	return answers, nil
}
