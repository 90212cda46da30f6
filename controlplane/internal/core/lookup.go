package core

import (
	"strings"

	"github.com/google/uuid"
)

// FindUser returns the user that an admin means by an id, "directory/user name", or a user name that is
// unambiguous among all directories.
func (s *State) FindUser(ref string) (*User, error) {
	if id, err := uuid.Parse(ref); err == nil {
		if u := s.User(id); u != nil {
			return u, nil
		}
	}
	if directory, name, ok := strings.Cut(ref, "/"); ok {
		if u := s.UserByName(directory, name); u != nil {
			return u, nil
		}
	}
	var found *User
	for _, directory := range s.directoryIDs() {
		u := s.UserByName(directory, ref)
		if u != nil && found != nil {
			return nil, refuse(InvalidArgument, "%q is a user of %s and of %s: say which, as in %s/%s", ref, found.Directory, directory, directory, ref)
		}
		if u != nil {
			found = u
		}
	}
	if found == nil {
		return nil, refuse(NotFound, "there is no user %q: give an id, a user name, or directory/user name", ref)
	}
	return found, nil
}

// FindGroup returns the group that an admin means by an id or by "directory/name". Two groups of one
// name must be told apart by id.
func (s *State) FindGroup(ref string) (*Group, error) {
	if id, err := uuid.Parse(ref); err == nil {
		if g := s.Group(id); g != nil {
			return g, nil
		}
	}
	directory, name, ok := strings.Cut(ref, "/")
	if !ok {
		return nil, refuse(InvalidArgument, "%q names no group: write directory/name, such as okta/Engineers, or an id", ref)
	}
	var found *Group
	for g := range s.GroupsByName(directory, name) {
		if found != nil {
			return nil, refuse(InvalidArgument, "%q is the name of groups %s and %s: say which by its id", ref, found.ID, g.ID)
		}
		found = g
	}
	if found == nil {
		return nil, refuse(NotFound, "there is no group %q: let the directory push it first", ref)
	}
	return found, nil
}
