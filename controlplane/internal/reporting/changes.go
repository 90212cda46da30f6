package reporting

import (
	"github.com/google/uuid"
	"github.com/jackc/pgx/v5/pgtype"

	"sallyport.dev/controlplane/internal/core"
)

// changesOf are what events changed, without anything of what is personal.
func changesOf(records []core.Record) rows {
	return func(yield func([]any) bool) {
		for _, rec := range records {
			ev := rec.Event
			if ev.GetBarrier() != nil {
				continue
			}
			body := core.Body(ev)
			var user, group pgtype.UUID
			connector := ev.GetConnectorSet().GetConnector().GetId()
			for _, of := range []any{body, ev.GetCredentialSet().GetCredential()} {
				if b, ok := of.(interface{ GetUserId() string }); ok {
					user = parsedID(b.GetUserId(), user)
				}
				if b, ok := of.(interface{ GetPersonId() string }); ok {
					user = parsedID(b.GetPersonId(), user)
				}
				if b, ok := of.(interface{ GetGroupId() string }); ok {
					group = parsedID(b.GetGroupId(), group)
				}
				if b, ok := of.(interface{ GetConnectorId() string }); ok && b.GetConnectorId() != "" {
					connector = b.GetConnectorId()
				}
			}
			var users, groups any
			if b, ok := body.(interface {
				GetUserIds() []byte
				GetGroupIds() []byte
			}); ok {
				users, groups = len(b.GetUserIds())/16, len(b.GetGroupIds())/16
			}
			var role any
			if r := ev.GetActor().GetRole(); r != 0 {
				role = word("ROLE_", r)
			}
			at := moment(ev.GetAt().AsTime())
			if !yield([]any{
				int64(rec.Seq), at, core.EventName(ev), text(core.Target(ev)), word("ACTOR_KIND_", ev.GetActor().GetKind()), text(ev.GetActor().GetId()), role,
				user, group, some(connector), users, groups,
			}) {
				return
			}
		}
	}
}

func parsedID(text string, otherwise pgtype.UUID) pgtype.UUID {
	if parsed, err := uuid.Parse(text); err == nil {
		return id(parsed)
	}
	return otherwise
}
