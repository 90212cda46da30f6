package core

import (
	"iter"
	"slices"

	"google.golang.org/protobuf/proto"
	eventv1 "sallyport.dev/proto/gen/sallyport/event/v1"
	policyv1 "sallyport.dev/proto/gen/sallyport/policy/v1"
)

// maxDirectories bounds what a fork costs.
const maxDirectories = 100

// SetDirectory creates a directory or replaces its settings, but for how its people sign in: see SetSignIn.
type SetDirectory struct {
	Directory message[*policyv1.Directory]
}

// NewSetDirectory sets a directory.
func NewSetDirectory(d *policyv1.Directory) SetDirectory {
	return SetDirectory{message[*policyv1.Directory]{d}}
}

func (c SetDirectory) decide(s *State, env Env) ([]*eventv1.Event, error) {
	d := proto.CloneOf(c.Directory.M)
	old, known := s.populations[d.GetId()]
	d.SignIn, d.Signals = nil, nil
	if known {
		d.SignIn, d.Signals = old.directory.GetSignIn(), old.directory.GetSignals()
	}
	switch {
	case d.GetId() == ServiceDirectory:
		return nil, refuseService(d.GetId())
	case d.GetId() == "":
		return nil, refuseField(InvalidArgument, "id", "a directory needs an id, such as \"okta\"")
	case !known && len(s.populations) >= maxDirectories:
		return nil, refuse(FailedPrecondition, "there are %d directories, which is the most", maxDirectories)
	case known && old.users.Len() > 0 && matchAttribute(old.directory) != matchAttribute(d):
		return nil, refuseField(FailedPrecondition, "match_attribute",
			"directory %q has users: the attribute by which they are matched cannot change; create another directory", d.GetId())
	}
	for id, p := range s.populations {
		for _, issuer := range p.directory.GetIssuers() {
			if id != d.GetId() && slices.ContainsFunc(d.GetIssuers(), func(i *policyv1.Issuer) bool { return i.GetUrl() == issuer.GetUrl() }) {
				return nil, refuseField(AlreadyExists, "issuers",
					"issuer %s speaks for directory %q: an issuer belongs to one directory", issuer.GetUrl(), id)
			}
		}
	}
	seen := map[string]bool{}
	for _, issuer := range d.GetIssuers() {
		if seen[issuer.GetUrl()] {
			return nil, refuseField(InvalidArgument, "issuers", "issuer %s is listed twice", issuer.GetUrl())
		}
		seen[issuer.GetUrl()] = true
	}
	if known && equal(old.directory, d) {
		return nil, nil
	}
	if d.GetId() == s.adminDirectory { // whoever says which issuer speaks for admins could be any of them
		if err := env.mayOwn(); err != nil {
			return nil, err
		}
	}
	return env.events(&eventv1.Event{Body: &eventv1.Event_DirectorySet{DirectorySet: &eventv1.DirectorySet{Directory: d}}}), nil
}

func (s *State) applyDirectorySet(d *policyv1.Directory) {
	p := s.populations[d.GetId()]
	if p == nil {
		p = &population{}
		s.populations[d.GetId()] = p
	}
	p.directory = d
}

func matchAttribute(d *policyv1.Directory) policyv1.MatchAttribute {
	if a := d.GetMatchAttribute(); a != policyv1.MatchAttribute_MATCH_ATTRIBUTE_UNSPECIFIED {
		return a
	}
	return policyv1.MatchAttribute_MATCH_ATTRIBUTE_EXTERNAL_ID
}

// Directory returns a directory by its id, or nil.
func (s *State) Directory(id string) *policyv1.Directory {
	if p := s.populations[id]; p != nil {
		return p.directory
	}
	return nil
}

// Directories yields all directories, by id.
func (s *State) Directories() iter.Seq[*policyv1.Directory] {
	return func(yield func(*policyv1.Directory) bool) {
		for _, id := range s.directoryIDs() {
			if !yield(s.populations[id].directory) {
				return
			}
		}
	}
}

func (s *State) directoryIDs() []string {
	ids := make([]string, 0, len(s.populations))
	for id := range s.populations {
		ids = append(ids, id)
	}
	slices.Sort(ids)
	return ids
}

// DirectoryOfIssuer returns the directory for which an issuer speaks, and what is known of the issuer.
func (s *State) DirectoryOfIssuer(url string) (*policyv1.Directory, *policyv1.Issuer) {
	for _, p := range s.populations {
		for _, issuer := range p.directory.GetIssuers() {
			if issuer.GetUrl() == url {
				return p.directory, issuer
			}
		}
	}
	return nil, nil
}
