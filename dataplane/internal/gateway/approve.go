package gateway

import (
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"net/http"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"
	auditv1 "sallyport.dev/proto/gen/sallyport/audit/v1"
	fleetv1 "sallyport.dev/proto/gen/sallyport/fleet/v1"
	policyv1 "sallyport.dev/proto/gen/sallyport/policy/v1"

	"sallyport.dev/dataplane/internal/mcp"
	"sallyport.dev/dataplane/internal/replica"
	"sallyport.dev/dataplane/policy"
)

// Approvals asks the control plane for people's yes: *replica.Client.
type Approvals interface {
	// Confirm says whether the person confirmed a call in the browser, and where they can. A yes is used up by the answer.
	Confirm(ctx context.Context, r *fleetv1.ConfirmRequest) (*fleetv1.ConfirmResponse, error)
	// Redeem uses up a yes that the person gave in their client. False: it was used before, or is void.
	Redeem(ctx context.Context, r *fleetv1.RedeemRequest) (bool, error)
	// Review says whether a call was approved. An approval is used up by the answer where the request says so.
	Review(ctx context.Context, r *fleetv1.ReviewRequest) (*fleetv1.ReviewResponse, error)
}

const (
	byClient  = policyv1.ConfirmationAssurance_CONFIRMATION_ASSURANCE_CLIENT
	byBrowser = policyv1.ConfirmationAssurance_CONFIRMATION_ASSURANCE_BROWSER
)

// patience is how long an agent of the stateless era waits, each time it comes back, for what its person does on a page.
const patience = 45 * time.Second

// approving is a call on its way from a verdict that wants it to one that has it.
type approving struct {
	g      *Gateway
	l      *leg
	to     *answer
	x      *exchange
	target target
	call   call
	ask    policy.Request
	d      policy.Decision
}

// errAnswered: the agent got its answer, and the call is not made now.
var errAnswered = errors.New("the agent was answered")

// approve gets what the rules want before the call: the yes of approvers, then the person's own, so that this one is fresh. The verdict
// is made anew with it. False: the agent was answered, and the call is not made now.
func (g *Gateway) approve(l *leg, to *answer, x *exchange, t target, ask policy.Request, d policy.Decision) (policy.Decision, bool) {
	a := &approving{g: g, l: l, to: to, x: x, target: t, ask: ask, d: d}
	// While people are asked, a change of the policy ends the call if no yes could save it.
	sure := ask
	sure.Confirmed, sure.Reviewed = byBrowser, d.Duties.Review()
	g.flights.change(l.flight, sure)
	var err error
	if a.call, err = g.callOf(x.message); err != nil {
		a.refuse(auditv1.Reason_REASON_ARGUMENTS_INVALID, "the arguments cannot be read")
		return a.d, false
	}
	if (x.roundTrip != nil || x.foreignState) && a.resumed() != nil {
		return a.d, false
	}
	reviewed := false
	for wanted(a.d) {
		review := a.d.Duties.Review()
		switch {
		case review != "" && a.ask.Reviewed != review:
			if err, reviewed = a.review(false), true; err != nil {
				return a.d, false
			}
		case a.d.Reason == auditv1.Reason_REASON_CONFIRM_REQUIRED:
			if a.confirm() != nil {
				return a.d, false
			}
		}
		if a.decide() != nil {
			return a.d, false
		}
	}
	if reviewed && a.d.Allowed && a.review(true) != nil {
		return a.d, false
	}
	x.approved.Confirmed, x.approved.Reviewed = a.ask.Confirmed, a.ask.Reviewed
	g.flights.change(l.flight, a.ask)
	return a.d, true
}

// wanted tells whether what keeps a call from being made is somebody's yes.
func wanted(d policy.Decision) bool {
	return d.Reason == auditv1.Reason_REASON_CONFIRM_REQUIRED || d.Reason == auditv1.Reason_REASON_REVIEW_REQUIRED
}

// asksFor tells whether people can be asked about a method: a completion or a subscription is not worth asking.
func asksFor(method string) bool {
	return method == mcp.MethodCallTool || method == mcp.MethodGetPrompt || method == mcp.MethodReadResource
}

// decide makes the verdict anew, as of now.
func (a *approving) decide() error {
	a.ask.Now = a.g.Now()
	table, err := a.g.Replica.Usable(a.ask.Now)
	if err != nil {
		a.refuse(auditv1.Reason_REASON_STALE, "this proxy's policy is not current")
		return errAnswered
	}
	before := a.ask.Confirmed == byBrowser && a.d.Reason == auditv1.Reason_REASON_CONFIRM_REQUIRED
	if a.d = table.Decide(a.ask); before && a.d.Reason == auditv1.Reason_REASON_CONFIRM_REQUIRED { // surer than that nobody is
		a.refuse(a.d.Reason, a.d.Text())
		return errAnswered
	}
	return nil
}

// resumed reads what an agent brought back, once.
func (a *approving) resumed() error {
	q := a.x.roundTrip
	if q == nil || !q.about(a.x, a.target, a.call) || !a.g.Now().Before(q.Expires) {
		a.invalid()
		return errAnswered
	}
	a.x.approved.ID = q.ID
	said, refused := accepted(q.answer, q.Browser)
	if q.approval == (approval{}) && !said {
		if q.Browser && refused {
			_, _ = a.g.Approvals.Confirm(a.l.ctx, &fleetv1.ConfirmRequest{Call: a.asked(), Withdraw: true}) // it ends by its time
		}
		if refused {
			a.refuse(auditv1.Reason_REASON_CONFIRM_REFUSED, "the person said no to this very call")
		} else {
			a.invalid()
		}
		return errAnswered
	}
	if q.Browser && q.approval == (approval{}) { // what was said is known where the page is
		return nil
	}
	first, err := a.g.Approvals.Redeem(a.l.ctx, &fleetv1.RedeemRequest{
		Id: q.ID, AccessToken: a.x.token, Resource: a.x.Audience, Connector: q.Connector, Tool: q.Label, ArgumentsSha256: q.Digest[:], Generation: q.Generation, ExpiresAt: timestamppb.New(q.Expires),
	})
	switch {
	case err != nil:
		return a.unavailable(err)
	case !first:
		a.invalid()
		return errAnswered
	}
	if a.ask.Confirmed = byClient; q.approval != (approval{}) {
		a.ask.Confirmed, a.ask.Reviewed, a.x.approved.ID = q.Confirmed, q.Reviewed, q.approval.ID
	}
	return a.decide()
}

func (a *approving) invalid() {
	a.refuse(auditv1.Reason_REASON_CONFIRM_INVALID, "what came back as the person's yes is of another call, is too old, or was used before; make the call again without requestState, so that the person is asked anew")
}

// accepted reads what a client answers to an elicitation: yes, or an outright no. A form must say so itself; a page has no form.
func accepted(raw []byte, page bool) (yes, no bool) {
	var said struct {
		Action  string `json:"action"`
		Content struct {
			Confirm *bool `json:"confirm"`
		} `json:"content"`
	}
	if json.Unmarshal(raw, &said) != nil {
		return false, false
	}
	if said.Content.Confirm == nil {
		return said.Action == "accept" && page, said.Action == "decline" || said.Action == "cancel"
	}
	agreed := said.Action == "accept" && *said.Content.Confirm
	return agreed, !agreed
}

// confirm gets the person's own yes: in their client where that is sure enough and the client can ask, else on a page.
func (a *approving) confirm() error {
	if !asksFor(a.x.message.Method) || a.g.Approvals == nil {
		a.refuse(a.d.Reason, a.d.Text())
		return errAnswered
	}
	may, _ := mcp.ReadCapabilities(a.x.offers(), mcp.Asks{Elicitation: true}, a.g.JSON)
	if _, batched := a.to.w.(*collector); batched { // its answers come all together, when there is nothing to ask any more
		may = mcp.Asks{}
	}
	if a.d.Duties.Confirm == byClient && may.Form {
		return a.inClient()
	}
	return a.inBrowser(may.URL && (a.x.revision.Stateless() || a.x.revision >= mcp.Revision20251125))
}

// inClient asks in the person's client: what it says is the word of the agent's program.
func (a *approving) inClient() error {
	params, err := json.Marshal(map[string]any{
		"message": a.describe() + "\nIs the call to be made?",
		"requestedSchema": map[string]any{
			"type": "object", "required": []string{"confirm"},
			"properties": map[string]any{"confirm": map[string]any{"type": "boolean", "title": "Make this call", "description": "Yes: the call is made once, with exactly these arguments."}},
		},
	})
	if err != nil {
		return a.unavailable(err)
	}
	q := a.g.newRoundTrip(a.x, a.target, a.call)
	a.x.approved.ID = q.ID
	if a.x.revision.Stateless() {
		return a.inputRequired(q, params)
	}
	switch yes, err := a.elicit(params, false); {
	case err != nil:
		a.refuse(a.d.Reason, "the person was asked to confirm this very call and did not answer")
		return errAnswered
	case !yes:
		a.refuse(auditv1.Reason_REASON_CONFIRM_REFUSED, "the person said no to this very call")
		return errAnswered
	}
	a.ask.Confirmed = byClient
	return nil
}

// inBrowser has the person say yes on a page of the control plane, signed in. links: their client can lead them there.
func (a *approving) inBrowser(links bool) error {
	r := &fleetv1.ConfirmRequest{Call: a.asked()}
	if a.x.roundTrip != nil && a.x.roundTrip.Browser { // the person was led there
		r.Wait = durationpb.New(min(patience, a.g.AskFor))
	}
	for {
		said, err := a.g.Approvals.Confirm(a.l.ctx, r)
		if err != nil {
			return a.unavailable(err)
		}
		a.x.approved.ID = said.GetId()
		switch said.GetState() {
		case fleetv1.AnswerState_ANSWER_STATE_GIVEN:
			a.ask.Confirmed = byBrowser
			return nil
		case fleetv1.AnswerState_ANSWER_STATE_REFUSED:
			a.refuse(auditv1.Reason_REASON_CONFIRM_REFUSED, "the person said no to this very call")
			return errAnswered
		case fleetv1.AnswerState_ANSWER_STATE_NOT_NEEDED:
			a.refuse(a.d.Reason, "the policy is changing; try again shortly")
			return errAnswered
		}
		if !links || r.GetWait() != nil && !a.x.revision.Stateless() {
			a.later("Sallyport has not made this call: its person must confirm it first, signed in, in a browser. Ask them to open " + said.GetUrl() +
				" and then make the very same call again, with the same arguments, before " + said.GetExpiresAt().AsTime().UTC().Format(time.TimeOnly) + " UTC.")
			return errAnswered
		}
		params, err := json.Marshal(map[string]any{
			"mode": "url", "url": said.GetUrl(), "elicitationId": said.GetId(), "message": a.describe() + "\nOpen the page to confirm it, signed in.",
		})
		if err != nil {
			return a.unavailable(err)
		}
		if a.x.revision.Stateless() {
			q := a.g.newRoundTrip(a.x, a.target, a.call)
			q.Browser = true
			return a.inputRequired(q, params)
		}
		yes, err := a.elicit(params, true)
		switch {
		case err != nil:
			a.refuse(a.d.Reason, "the person was asked to confirm this very call and did not answer")
			return errAnswered
		case !yes:
			_, _ = a.g.Approvals.Confirm(a.l.ctx, &fleetv1.ConfirmRequest{Call: r.GetCall(), Withdraw: true}) // it ends by its time
			a.refuse(auditv1.Reason_REASON_CONFIRM_REFUSED, "the person said no to this very call")
			return errAnswered
		}
		r.Wait = durationpb.New(a.g.AskFor)
	}
}

// inputRequired asks an agent of the stateless era by a result, whose answer any proxy of the region takes.
func (a *approving) inputRequired(q roundTrip, params []byte) error {
	state := a.g.seal(q)
	if state == "" {
		return a.unavailable(errors.New("the region's sealing keys have not come"))
	}
	a.wait()
	a.to.last(http.StatusOK, mcp.AppendInputRequired(nil, a.x.message.ID, &mcp.InputRequired{Asked: []mcp.Asked{{Key: roundTripKey, Method: mcp.MethodElicit, Params: params}}, State: state}))
	return errAnswered
}

// elicit asks an agent of the session era on its stream: by a form, or to open a page.
func (a *approving) elicit(params []byte, page bool) (yes bool, err error) {
	answers, err := a.g.inquire(a.l.ctx, a.to, a.x, &mcp.InputRequired{Asked: []mcp.Asked{{Key: roundTripKey, Method: mcp.MethodElicit, Params: params}}})
	if err != nil {
		return false, err
	}
	yes, _ = accepted(answers[roundTripKey], page)
	return yes, nil
}

// review gets the approvers' yes. use: the call is made now, so that it is used up.
func (a *approving) review(use bool) error {
	if !asksFor(a.x.message.Method) || a.g.Approvals == nil {
		a.refuse(a.d.Reason, a.d.Text())
		return errAnswered
	}
	r := &fleetv1.ReviewRequest{Call: a.asked(), Use: use}
	if wait := a.d.Duties.Wait(); !use && wait > 0 {
		r.Wait = durationpb.New(wait)
	}
	said, err := a.g.Approvals.Review(a.l.ctx, r)
	if err != nil {
		return a.unavailable(err)
	}
	a.x.approved.ID = said.GetId()
	switch said.GetState() {
	case fleetv1.AnswerState_ANSWER_STATE_GIVEN:
		a.ask.Reviewed = said.GetReviewed()
		if a.d.Duties.Review() == a.ask.Reviewed {
			return nil
		}
		a.refuse(a.d.Reason, "the policy is changing; try again shortly")
	case fleetv1.AnswerState_ANSWER_STATE_REFUSED:
		why := "an approver said no to this very call"
		if said.GetReason() != "" {
			why += ": " + said.GetReason()
		}
		a.refuse(auditv1.Reason_REASON_REVIEW_REFUSED, why)
	case fleetv1.AnswerState_ANSWER_STATE_NOT_NEEDED:
		a.refuse(a.d.Reason, "the policy is changing; try again shortly")
	default:
		a.d.Reason = auditv1.Reason_REASON_REVIEW_REQUIRED
		a.later("Sallyport has not made this call: it must be approved first, and was handed to its approvers as request " + said.GetId() +
			". Tell the person so. Make the very same call again, with the same arguments, in a few minutes, and at the latest at " + said.GetExpiresAt().AsTime().UTC().Format(time.DateTime) + " UTC.")
	}
	return errAnswered
}

// asked is the call as the control plane is told of it.
func (a *approving) asked() *fleetv1.AskedCall {
	c := &fleetv1.AskedCall{
		AccessToken: a.x.token, Resource: a.x.Audience, ClientId: a.x.ClientID, Connector: a.target.connector, Tool: a.target.label, Method: a.x.message.Method,
		Arguments: a.call.arguments, Address: a.x.from.Address, Acr: a.x.from.ACR, Amr: a.x.from.AMR,
	}
	if !a.x.from.AuthTime.IsZero() {
		c.AuthTime = timestamppb.New(a.x.from.AuthTime)
	}
	return c
}

// maxDescribed bounds what of the arguments is shown in a client.
const maxDescribed = 2000

// describe says the call for the person.
func (a *approving) describe() string {
	settings, _ := a.x.table.Connector(a.target.connector)
	shown := ""
	if len(a.call.arguments) > 0 {
		shown = policy.Shown(a.call.arguments)
	}
	if len(shown) > maxDescribed {
		shown = clipTo(shown, maxDescribed) + "… (the rest is left out)"
	}
	said := "[Sallyport] An agent asks to call " + a.target.label + " of " + title(settings) + "."
	if shown != "" {
		said += "\nArguments: " + shown
	}
	return said + "\nSHA-256 of the arguments: " + hex.EncodeToString(a.call.digest[:])
}

// refuse records that the call is not made, and says why.
func (a *approving) refuse(reason auditv1.Reason, why string) {
	a.d.Allowed, a.d.Reason = false, reason
	a.g.refuse(a.to, a.x, a.target, a.d, why)
}

// wait records that the call waits for somebody's yes.
func (a *approving) wait() {
	a.d.Allowed = false
	r := a.g.record(a.x, a.target, a.d)
	a.g.keep(r)
	a.g.Metrics.Refused(a.d.Reason)
}

// later records it too, and says when to come back.
func (a *approving) later(said string) {
	a.wait()
	a.to.say(said)
}

// unavailable refuses because nobody can be asked.
func (a *approving) unavailable(err error) error {
	if errors.Is(err, replica.ErrApprovalDenied) {
		a.refuse(auditv1.Reason_REASON_APPROVAL_UNAVAILABLE, err.Error())
		return errAnswered
	}
	if _, cut := cutOff(a.l.ctx); !cut {
		a.g.Log.Warn("nobody can be asked for a call that needs somebody's yes", "connector", a.target.connector, "error", err)
	}
	a.refuse(auditv1.Reason_REASON_APPROVAL_UNAVAILABLE, "somebody must say yes to it first, and Sallyport can ask nobody at the moment; try again later")
	return errAnswered
}
