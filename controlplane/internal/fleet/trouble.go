package fleet

import (
	"encoding/base64"

	"google.golang.org/protobuf/proto"
	adminv1 "sallyport.dev/proto/gen/sallyport/admin/v1"
	fleetv1 "sallyport.dev/proto/gen/sallyport/fleet/v1"

	"sallyport.dev/controlplane/internal/core"
)

// Troubled takes what a proxy says is wrong there, in place of what it said before.
func (r *Roster) Troubled(token *core.Token, t *fleetv1.Troubles) {
	text := ""
	if len(t.GetTroubles()) > 0 {
		data, err := proto.MarshalOptions{Deterministic: true}.Marshal(t)
		if err != nil {
			r.log.Warn("what a proxy says is wrong there cannot be kept", "proxy", token.Name, "error", err)
			return
		}
		text = base64.StdEncoding.EncodeToString(data)
	}
	r.change(token, func(s *Standing) { s.Troubles = text })
}

// troubles are what a proxy said is wrong there, as admins are told.
func (s *Standing) troubles() []*adminv1.ProxyTrouble {
	data, err := base64.StdEncoding.DecodeString(s.Troubles)
	kept := &fleetv1.Troubles{}
	if err != nil || proto.Unmarshal(data, kept) != nil {
		return nil // it is told anew with the proxy's next stream
	}
	var all []*adminv1.ProxyTrouble
	for _, t := range kept.GetTroubles() {
		all = append(all, &adminv1.ProxyTrouble{
			Connector: t.GetConnector(), HiddenName: t.GetHiddenName(), Reason: t.GetReason(), Since: t.GetSince(), LeftAlone: t.GetLeftAlone(),
		})
	}
	return all
}
