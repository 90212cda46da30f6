package policy

import (
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	policyv1 "sallyport.dev/proto/gen/sallyport/policy/v1"
)

// SignIn is how a person must have signed in at their identity provider. It is shared: do not change it.
type SignIn struct {
	// ACR are authentication contexts, of which the sign-in must have one; AMR are methods, of which it must have all.
	ACR, AMR []string
	// MaxAge is how long ago it may be. Zero: however long.
	MaxAge time.Duration
	// After is when it must have been at the earliest; of a scope alone.
	After time.Time
}

// clockSkew is how far the clock of an identity provider may be off.
const clockSkew = time.Minute

// SignInOf is what a rule asks for; nil: nothing.
func SignInOf(a *policyv1.Assurance) *SignIn {
	if a == nil {
		return nil
	}
	return &SignIn{ACR: a.GetAcr(), AMR: a.GetAmr(), MaxAge: a.GetMaxAge().AsDuration()}
}

// met tells whether the person of a request signed in so. The age counts up to when the request came: what is in flight does not
// grow too old.
func (s *SignIn) met(q *Request) bool {
	from := q.From
	if from == nil {
		return false
	}
	at := from.At
	if at.IsZero() {
		at = q.Now
	}
	if len(s.ACR) > 0 && !slices.Contains(s.ACR, from.ACR) {
		return false
	}
	for _, method := range s.AMR {
		if !slices.Contains(from.AMR, method) {
			return false
		}
	}
	age := at.Sub(from.AuthTime)
	return s.MaxAge == 0 || !from.AuthTime.IsZero() && age <= s.MaxAge+clockSkew && age >= -clockSkew
}

// And is a sign-in that is as both ask. Where no context is as both ask, the first's count.
func (s *SignIn) And(other *SignIn) *SignIn {
	if s == nil || other == nil {
		return or(s, other)
	}
	out := SignIn{ACR: s.ACR, AMR: slices.Clone(s.AMR), MaxAge: s.MaxAge, After: s.After}
	if len(s.ACR) == 0 {
		out.ACR = other.ACR
	} else if len(other.ACR) > 0 {
		both := slices.DeleteFunc(slices.Clone(s.ACR), func(acr string) bool { return !slices.Contains(other.ACR, acr) })
		if len(both) > 0 {
			out.ACR = both
		}
	}
	for _, method := range other.AMR {
		if !slices.Contains(out.AMR, method) {
			out.AMR = append(out.AMR, method)
		}
	}
	if other.MaxAge > 0 && (out.MaxAge == 0 || other.MaxAge < out.MaxAge) {
		out.MaxAge = other.MaxAge
	}
	if other.After.After(out.After) {
		out.After = other.After
	}
	return &out
}

func or(s, other *SignIn) *SignIn {
	if s == nil {
		return other
	}
	return s
}

// signInScope begins a scope that stands for a sign-in.
const signInScope = "sign-in:"

// Scope is an OAuth scope that stands for such a sign-in: an agent that knows nothing of sign-ins asks for it when a call was refused
// for want of it, and the authorization server has the person sign in so. It says after when, not how long ago, so that it stays
// true of a token that has it; and so long ago that the token is good for a while.
func (s *SignIn) Scope(now time.Time) string {
	q := url.Values{}
	if len(s.ACR) > 0 {
		q["acr"] = s.ACR
	}
	if len(s.AMR) > 0 {
		q["amr"] = s.AMR
	}
	if s.MaxAge > 0 {
		q.Set("after", strconv.FormatInt(now.Add(-s.MaxAge/2).Unix(), 10))
	}
	return signInScope + q.Encode()
}

// SignInOfScope reads a scope that stands for a sign-in.
func SignInOfScope(scope string) (*SignIn, bool) {
	rest, ok := strings.CutPrefix(scope, signInScope)
	if !ok || len(rest) > 4096 {
		return nil, false
	}
	q, err := url.ParseQuery(rest)
	if err != nil || len(q["acr"]) > maxSignInWords || len(q["amr"]) > maxSignInWords {
		return nil, false
	}
	s := &SignIn{ACR: q["acr"], AMR: q["amr"]}
	if q.Has("after") {
		unix, err := strconv.ParseInt(q.Get("after"), 10, 64)
		if err != nil || unix < 0 || unix > 1<<40 {
			return nil, false
		}
		s.After = time.Unix(unix, 0)
	}
	return s, true
}

// maxSignInWords bounds what a scope names; rules have fewer.
const maxSignInWords = 40

// String says it for people.
func (s *SignIn) String() string {
	var all []string
	if len(s.ACR) > 0 {
		all = append(all, "with the context "+strings.Join(s.ACR, " or "))
	}
	if len(s.AMR) > 0 {
		all = append(all, "by "+strings.Join(s.AMR, " and "))
	}
	if s.MaxAge > 0 {
		all = append(all, "within "+s.MaxAge.String())
	}
	return strings.Join(all, ", ")
}
