package gateway

import (
	"google.golang.org/protobuf/proto"
	auditv1 "sallyport.dev/proto/gen/sallyport/audit/v1"
	fleetv1 "sallyport.dev/proto/gen/sallyport/fleet/v1"

	"sallyport.dev/dataplane/internal/mask"
	"sallyport.dev/dataplane/policy"
	"sallyport.dev/dataplane/sealing"
)

// maxConditionValues is how many bytes of arguments are recorded for conditions. Of what is more nothing is known when the call is decided again.
const maxConditionValues = 16 << 10

// conditionValues are the parts of a call's arguments that conditions read, where audit does not keep them whole, so that a proposed policy
// can be tested on the call: sealed to the control plane before they reach the spool, and opened by nobody on the way. What looks like a secret
// is not among them.
func (g *Gateway) conditionValues(ask *policy.Request, table *policy.Table, r *auditv1.AuditRecord) []byte {
	kept, sender := r.GetArguments(), g.sender.Load()
	if ask == nil || sender == nil || !kept.GetTruncated() && !kept.GetMasked() && !kept.GetRedacted() {
		return nil
	}
	left := maxConditionValues
	values := table.ConditionValues(*ask, func(object []byte) bool {
		if _, secret := mask.Mask(object); secret || len(object) > left {
			return false
		}
		left -= len(object)
		return true
	})
	if values == nil {
		return nil
	}
	plain, err := proto.Marshal(values)
	if err != nil {
		g.Log.Error("what conditions read of a call could not be recorded: a backtest will count it as unknown", "call_id", r.GetCallId(), "error", err)
		return nil
	}
	return sender.Seal(plain, r.GetPersonId(), r.GetCallId())
}

// sealTo takes the control plane's key of a Welcome.
func (g *Gateway) sealTo(w *fleetv1.Welcome) {
	if len(w.GetConditionValuesKey()) == 0 {
		return
	}
	sender, err := sealing.NewSender(w.GetConditionValuesKey())
	if err != nil {
		g.Log.Error("the control plane's key for what conditions read cannot be used: backtests will count such calls as unknown", "error", err)
		return
	}
	g.sender.Store(sender)
}
