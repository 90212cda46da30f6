package credentials

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"net/url"
	"strings"

	auditv1 "sallyport.dev/proto/gen/sallyport/audit/v1"
	policyv1 "sallyport.dev/proto/gen/sallyport/policy/v1"

	"sallyport.dev/controlplane/internal/core"
	"sallyport.dev/controlplane/internal/signin"
	"sallyport.dev/controlplane/internal/signin/page"
)

func (k *Keeper) redirectURI(connector string) string {
	return k.URL + "/connect/" + connector + "/callback"
}

func (k *Keeper) documentURL(connector string) string {
	return k.URL + "/connect/" + connector + "/client.json"
}

// Handler serves the pages at which people let the gateway use an upstream as them, below the URL's path.
func (k *Keeper) Handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET "+k.path+"/connect/{connector}", k.ask)
	mux.HandleFunc("POST "+k.path+"/connect/{connector}", k.begin)
	mux.HandleFunc("GET "+k.path+"/connect/{connector}/callback", k.callback)
	mux.HandleFunc("GET "+k.path+"/connect/{connector}/client.json", k.document)
	return mux
}

// document is the metadata by which the gateway names itself to authorization servers that take such names.
func (k *Keeper) document(w http.ResponseWriter, r *http.Request) {
	id := r.PathValue("connector")
	connector := k.Engine.State().Connector(id)
	if connector == nil || connector.Settings.GetAuth().GetOauth() == nil {
		http.NotFound(w, r)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "max-age=300")
	_ = json.NewEncoder(w).Encode(map[string]any{ // a client that went away is all that can fail here
		"client_id": k.documentURL(id), "client_name": "Sallyport", "client_uri": k.URL, "redirect_uris": []string{k.redirectURI(id)},
		"grant_types": []string{"authorization_code", grantRefresh}, "response_types": []string{"code"}, "token_endpoint_auth_method": "none",
	})
}

// visit is somebody at a connector's page.
type visit struct {
	who       signin.Who
	connector *core.Connector
	scopes    []string
	ticket    string
}

// visitor finds out who is there and for what, or answers.
func (k *Keeper) visitor(w http.ResponseWriter, r *http.Request, text string) (visit, bool) {
	id := r.PathValue("connector")
	who, ok := k.People.Require(w, r, signin.Need{})
	if !ok {
		return visit{}, false
	}
	s, err := k.Engine.Fence(r.Context())
	if err != nil {
		k.unavailable(w, r, err)
		return visit{}, false
	}
	v := visit{who: who, connector: s.Connector(id), ticket: text}
	if v.connector == nil || !s.MayUse(who.User, "", id, k.Now()) {
		page.Message(w, http.StatusNotFound, "Nothing to connect", "There is no connector of this name that you may use.", "If you should, ask your administrator for access.")
		return visit{}, false
	}
	if text == "" {
		return v, true
	}
	t, err := k.readTicket(r.Context(), text, id)
	switch {
	case errors.Is(err, errTicket):
		page.Message(w, http.StatusGone, "This link is too old", "It was good for half an hour. Nothing was changed.", "Have your agent try again: it gets a new one.")
		return visit{}, false
	case err != nil:
		k.unavailable(w, r, err)
		return visit{}, false
	case t.Person != who.User.ID:
		k.note(who.User, id, "connect_refused", auditv1.Reason_REASON_CREDENTIAL_UNAVAILABLE)
		page.Message(w, http.StatusForbidden, "This link is somebody else's",
			"The agent that was given this link acts for another person than the one who is signed in with this browser ("+name(who.User)+"). Nothing was changed.",
			"If somebody sent you the link, do not go on: ask your administrator. If it is your own agent, sign out here and sign in as the person it acts for.")
		return visit{}, false
	}
	v.scopes = t.Scopes
	return v, true
}

func name(u *core.User) string {
	if u.DisplayName != "" {
		return u.DisplayName
	}
	return u.UserName
}

var askBody = page.Body(`<p>Sallyport wants to use <strong>{{.Title}}</strong> as you, so that your agents can work with it.</p>
<dl class="box">
<dt>You are</dt><dd>{{.Name}} of {{.Directory}}</dd>
<dt>Upstream</dt><dd>{{.Upstream}}</dd>
{{with .Server}}<dt>You say yes at</dt><dd>{{.}}</dd>{{end}}
{{with .Scopes}}<dt>It asks for</dt><dd>{{range .}}<code>{{.}}</code> {{end}}</dd>{{end}}
</dl>
<p>What you let it have stays in Sallyport's vault. No agent and no laptop gets it, each use is decided by your company's rules and recorded, and it ends with your access.</p>
<form action="{{.Action}}" method="post">
<input type="hidden" name="form" value="{{.Form}}">
<input type="hidden" name="t" value="{{.Ticket}}">
<p class="row"><button class="main" type="submit">{{.Button}}</button></p>
</form>
<p class="weak">Did you not ask for this? Close the page: nothing was changed.</p>`)

// ask is the connector's page: what is asked for, by whom, and where.
func (k *Keeper) ask(w http.ResponseWriter, r *http.Request) {
	v, ok := k.visitor(w, r, r.URL.Query().Get("t"))
	if !ok {
		return
	}
	id := v.connector.Settings.GetId()
	data := map[string]any{
		"Title": title(v.connector.Settings), "Name": name(v.who.User), "Directory": v.who.User.Directory, "Upstream": hostOf(v.connector.Settings.GetUrl()),
		"Action": k.path + "/connect/" + id, "Form": v.who.Form("connect " + id), "Ticket": v.ticket, "Button": "Sign in again",
	}
	if v.connector.Settings.GetAuth().GetOauth() != nil {
		scopes, err := k.wanted(r.Context(), v)
		if err != nil {
			k.unavailable(w, r, err)
			return
		}
		data["Button"], data["Scopes"] = "Continue to "+title(v.connector.Settings), scopes
		if at := v.connector.Server.GetAuthorizationEndpoint(); at != "" {
			data["Server"] = hostOf(at)
		}
	}
	page.Write(w, http.StatusOK, page.Page{Title: "Connect " + title(v.connector.Settings), Body: askBody, Data: data, FormAction: k.formAction(v.connector)})
}

// formAction is where the answer to the page's form may lead.
func (k *Keeper) formAction(connector *core.Connector) []string {
	if u, err := url.Parse(connector.Server.GetAuthorizationEndpoint()); err == nil && u.Host != "" && connector.Settings.GetAuth().GetOauth() != nil {
		return []string{u.Scheme + "://" + u.Host}
	}
	return nil
}

func hostOf(text string) string {
	if u, err := url.Parse(text); err == nil {
		return u.Host
	}
	return ""
}

// begin leads the person to the upstream's authorization server, or to a fresh sign-in.
func (k *Keeper) begin(w http.ResponseWriter, r *http.Request) {
	v, ok := k.visitor(w, r, r.PostFormValue("t"))
	if !ok {
		return
	}
	ctx, id := r.Context(), v.connector.Settings.GetId()
	if k.forms.Check(r) != nil || !v.who.Check("connect "+id, r.PostFormValue("form")) {
		page.Message(w, http.StatusForbidden, "Not done", "That form was not sent from Sallyport's own page. Nothing was changed.")
		return
	}
	if v.connector.Settings.GetAuth().GetOauth() == nil {
		k.signInAgain(w, v)
		return
	}
	if held := k.held(ctx, v.connector); held != "" {
		k.Log.WarnContext(ctx, "the authorization server of a connector is not what was approved: nobody is sent there", "connector", id, "differs", held)
		k.note(v.who.User, id, "connect_held", auditv1.Reason_REASON_CREDENTIAL_UNAVAILABLE)
		page.Message(w, http.StatusServiceUnavailable, title(v.connector.Settings)+" must be looked at first",
			"Where "+title(v.connector.Settings)+" has people say yes is not what your administrator approved ("+held+"). Nobody is sent there until it is.",
			"Please tell your administrator: sallyport connectors trust "+id+" shows what changed.")
		return
	}
	at, err := k.depart(ctx, v)
	if err != nil {
		k.stopped(w, r, v.connector, err)
		return
	}
	w.Header().Set("Location", at)
	w.Header().Set("Cache-Control", "no-store")
	w.Header().Set("Referrer-Policy", "no-referrer")
	w.WriteHeader(http.StatusSeeOther)
}

// held says what of a connector's authorization server is not as it was approved. One that cannot be asked is taken as approved: its tokens
// are asked for where an admin approved it, whatever it says.
func (k *Keeper) held(ctx context.Context, connector *core.Connector) string {
	if connector.Server == nil {
		return "it was not approved yet"
	}
	now, err := k.Discover(ctx, connector.Settings)
	if err != nil {
		return ""
	}
	return differs(connector.Server, now)
}

// signInAgain leads the person to their identity provider, from which sign-in keeps what is needed.
func (k *Keeper) signInAgain(w http.ResponseWriter, v visit) {
	to := k.path + "/connect/" + v.connector.Settings.GetId() + "/callback"
	at := k.path + "/signin?" + url.Values{"to": {to}, "directory": {v.who.User.Directory}, "ask": {"1"}}.Encode()
	w.Header().Set("Location", at)
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(http.StatusSeeOther)
}

// callback takes the answer of the upstream's authorization server.
func (k *Keeper) callback(w http.ResponseWriter, r *http.Request) {
	v, ok := k.visitor(w, r, "")
	if !ok {
		return
	}
	id := v.connector.Settings.GetId()
	if v.connector.Settings.GetAuth().GetOauth() == nil {
		k.signedIn(w, r, v)
		return
	}
	held, err := k.redeem(r, v.who)
	q := r.URL.Query()
	if err == nil {
		iss, said := q["iss"]
		// An answer of another server must not be taken for this one's (RFC 9207).
		if said && (len(iss) != 1 || iss[0] != held.Issuer) || !said && v.connector.Server.GetSendsIssuer() ||
			held.Issuer != v.connector.Server.GetIssuer() || held.TokenEndpoint != v.connector.Server.GetTokenEndpoint() {
			err = errForged
		}
	}
	switch code := q.Get("error"); {
	case errors.Is(err, errForged):
		k.note(v.who.User, id, "connect_forged", auditv1.Reason_REASON_TOKEN_INVALID)
		page.Message(w, http.StatusBadRequest, "This cannot be finished",
			"The answer that came back was not asked for by this browser, took too long, or was used already. Nothing was changed.", "Please begin again from your agent.")
		return
	case err != nil:
		k.unavailable(w, r, err)
		return
	case code != "":
		k.note(v.who.User, id, "connect_declined", auditv1.Reason_REASON_CREDENTIAL_UNAVAILABLE)
		page.Message(w, http.StatusForbidden, title(v.connector.Settings)+" said no", "You, or "+title(v.connector.Settings)+", did not let Sallyport in ("+shown(code)+"). Nothing was changed.",
			"You can begin again from your agent. If you should have access, ask your administrator.")
		return
	}
	t, err := k.arrive(r.Context(), v, held, q.Get("code"), q.Get("state"))
	if err != nil {
		k.stopped(w, r, v.connector, err)
		return
	}
	k.connected(w, r, v, strings.Join(t.Scopes, " "))
}

func shown(code string) string {
	if w := word(code); w != "" {
		return w
	}
	return "it did not say why"
}

// signedIn looks whether a fresh sign-in gave what the connector needs.
func (k *Keeper) signedIn(w http.ResponseWriter, r *http.Request, v visit) {
	a := v.connector.Settings.GetAuth()
	need := policyv1.IdentityToken_IDENTITY_TOKEN_ID
	switch {
	case a.GetPassThrough() != nil:
		need = a.GetPassThrough().GetToken()
	case a.GetTokenExchange() != nil:
		need = a.GetTokenExchange().GetSubject()
	}
	_, err := k.identity(r.Context(), v.who.User, need)
	if errors.Is(err, errIdentity) {
		err = refuse("the sign-in at your identity provider gave nothing that %s can be reached with", title(v.connector.Settings))
	}
	if err != nil {
		k.stopped(w, r, v.connector, err)
		return
	}
	k.connected(w, r, v, "")
}

// connected says that it is done.
func (k *Keeper) connected(w http.ResponseWriter, r *http.Request, v visit, scopes string) {
	k.noteDetail(v.who.User, v.connector.Settings.GetId(), "connected", scopes)
	page.Message(w, http.StatusOK, title(v.connector.Settings)+" is connected", "Your agents can use it now, as far as your company's rules let them.", "You can close this page and go back to your agent; if it waits, have it go on.")
}

// stopped answers that a link could not be made.
func (k *Keeper) stopped(w http.ResponseWriter, r *http.Request, connector *core.Connector, err error) {
	var refused *core.Error
	switch {
	case errors.As(err, &refused):
		k.Log.WarnContext(r.Context(), "somebody could not be connected", "connector", connector.Settings.GetId(), "error", err)
		page.Message(w, http.StatusForbidden, title(connector.Settings)+" cannot be connected", "Nothing was changed: "+refused.Message+".", "Please show this to your administrator.")
	case isRefused(err), errors.Is(err, errAgain):
		k.Log.WarnContext(r.Context(), "an upstream's authorization server did not redeem a code: are client id, secret and redirect URI right?", "connector", connector.Settings.GetId(), "error", err)
		page.Message(w, http.StatusBadGateway, title(connector.Settings)+" did not finish", "It did not take its own answer back. Nothing was changed.",
			"Please begin again from your agent. If it stays like this, tell your administrator: the control plane's log says more.")
	default:
		k.unavailable(w, r, err)
	}
}

func (k *Keeper) unavailable(w http.ResponseWriter, r *http.Request, err error) {
	if r.Context().Err() == nil {
		k.Log.ErrorContext(r.Context(), "a link to an upstream could not be made", "error", err)
	}
	page.Message(w, http.StatusServiceUnavailable, "Not possible right now", "Sallyport, or the upstream's authorization server, cannot do this at the moment. Nothing was changed.",
		"Please try again in a minute. If it stays like this, tell your administrator: the control plane's log says why.")
}

func (k *Keeper) note(user *core.User, connector, action string, reason auditv1.Reason) {
	k.record(user, connector, action, &auditv1.Decision{Verdict: auditv1.Verdict_VERDICT_DENIED, Reason: reason}, "")
}

func (k *Keeper) noteDetail(user *core.User, connector, action, scopes string) {
	k.record(user, connector, action, &auditv1.Decision{Verdict: auditv1.Verdict_VERDICT_ALLOWED}, scopes)
}

func (k *Keeper) record(user *core.User, connector, action string, d *auditv1.Decision, scopes string) {
	if k.Trail == nil {
		return
	}
	rec := &auditv1.AuditRecord{
		Kind: auditv1.Kind_KIND_CREDENTIAL, Method: "connect", Action: action, Target: "connector/" + connector, Connector: connector, PersonId: user.ID.String(), Decision: d,
	}
	if scopes != "" {
		rec.Details = []*auditv1.Detail{{Key: "scopes", Value: scopes}}
	}
	k.Trail.Note(rec)
}
