package core

import (
	"slices"

	"google.golang.org/protobuf/proto"
	eventv1 "sallyport.dev/proto/gen/sallyport/event/v1"
	policyv1 "sallyport.dev/proto/gen/sallyport/policy/v1"
)

// SetSignIn says how a directory's people sign in with a browser.
type SetSignIn struct {
	Directory string
	// SignIn is nil where nobody is to sign in any more.
	SignIn *message[*policyv1.SignIn]
}

// NewSetSignIn sets how a directory's people sign in; nil: not at all.
func NewSetSignIn(directory string, s *policyv1.SignIn) SetSignIn {
	if s == nil {
		return SetSignIn{Directory: directory}
	}
	return SetSignIn{Directory: directory, SignIn: &message[*policyv1.SignIn]{s}}
}

func (c SetSignIn) decide(s *State, env Env) ([]*eventv1.Event, error) {
	old := s.Directory(c.Directory)
	if old == nil {
		return nil, refuseField(NotFound, "directory_id", "there is no directory %q: see sallyport directories list", c.Directory)
	}
	d := proto.CloneOf(old)
	d.SignIn = nil
	if c.SignIn != nil {
		d.SignIn = c.SignIn.M
	}
	if equal(old, d) {
		return nil, nil
	}
	for other := range s.Directories() {
		if other.GetId() == c.Directory || other.GetSignIn() == nil || d.GetSignIn() == nil {
			continue
		}
		if other.GetSignIn().GetIssuer() == d.GetSignIn().GetIssuer() {
			return nil, refuseField(AlreadyExists, "sign_in.issuer", "people of directory %q sign in at %s: an issuer belongs to one directory", other.GetId(), d.GetSignIn().GetIssuer())
		}
		for _, domain := range d.GetSignIn().GetEmailDomains() {
			if slices.Contains(other.GetSignIn().GetEmailDomains(), domain) {
				return nil, refuseField(AlreadyExists, "sign_in.email_domains", "the domain %s leads to directory %q: a domain belongs to one directory", domain, other.GetId())
			}
		}
	}
	if err := refuseService(c.Directory); err != nil {
		return nil, err
	}
	if c.Directory == s.adminDirectory { // whoever says where admins sign in could be any of them
		if err := env.mayOwn(); err != nil {
			return nil, err
		}
	}
	return env.events(&eventv1.Event{Body: &eventv1.Event_DirectorySet{DirectorySet: &eventv1.DirectorySet{Directory: d}}}), nil
}
