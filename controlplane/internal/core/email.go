package core

import (
	"bytes"
	"cmp"
	"encoding/json"
	"slices"
)

// otherEmails are the addresses of a person besides the userName, folded, each once. The index of addresses holds only
// these: most people's one address is their userName, which has an index already.
func (u *User) otherEmails() []string {
	if !bytes.Contains(u.Attributes, []byte(`"emails":`)) {
		return nil
	}
	name := Fold(u.UserName)
	if bytes.Count(u.Attributes, []byte(`"value":`)) == 1 && Fold(u.Email) == name {
		return nil // without reading a million people's attributes at a start
	}
	var read struct {
		Emails []struct {
			Value string `json:"value"`
		} `json:"emails"`
	}
	if json.Unmarshal(u.Attributes, &read) != nil {
		return nil // what is no list of addresses cannot be found by one
	}
	var others []string
	for _, e := range read.Emails {
		if address := Fold(e.Value); address != "" && address != name && !slices.Contains(others, address) {
			others = append(others, address)
		}
	}
	return others
}

// indexEmails moves a person in the index of addresses from what they were to what they are; either may be nil.
func (p *population) indexEmails(old, u *User) {
	if old != nil && u != nil && old.UserName == u.UserName && bytes.Equal(old.Attributes, u.Attributes) {
		return
	}
	if old != nil {
		for _, address := range old.otherEmails() {
			p.emails.Delete(indexKey(address, old.No))
		}
	}
	if u != nil {
		for _, address := range u.otherEmails() {
			p.emails.Set(indexKey(address, u.No), u.No)
		}
	}
}

// UsersByEmail returns the users of a directory one of whose addresses, or whose userName, has the same fold, oldest first.
func (s *State) UsersByEmail(directory, address string) []*User {
	p := s.populations[directory]
	if p == nil {
		return nil
	}
	address = Fold(address)
	var found []*User
	if u := s.UserByName(directory, address); u != nil {
		found = append(found, u)
	}
	p.emails.Ascend(indexKey(address, 0), func(key string, no uint32) bool {
		if key != indexKey(address, no) {
			return false
		}
		found = append(found, s.UserByNumber(no))
		return true
	})
	slices.SortFunc(found, func(a, b *User) int { return cmp.Compare(a.No, b.No) })
	return found
}
