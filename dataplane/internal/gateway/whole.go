package gateway

import (
	"io"

	auditv1 "sallyport.dev/proto/gen/sallyport/audit/v1"

	"sallyport.dev/dataplane/internal/mask"
)

// A connector may have audit keep arguments and results whole. They lie in the spool, in their records, until the control plane has them. A
// spool that fills up needs its room for records: then they are not kept, and the records say so.

// defaultWhole is the largest value that is kept whole where the connector does not say, and mostWhole the largest that may be.
const (
	defaultWhole = 1 << 20
	mostWhole    = 3 << 20
)

// noRoom is why a value is not kept while the spool fills up.
const noRoom = "the proxy's spool is more than half full"

// keepsWhole says how large a value of the call's connector may be to be kept whole; 0: none is.
func (g *Gateway) keepsWhole(x *exchange, connector string) wholeValues {
	settings, _ := x.table.Connector(connector)
	if !settings.GetAudit().GetWhole() {
		return wholeValues{}
	}
	most := int(settings.GetAudit().GetMaxBytes())
	if most == 0 {
		most = defaultWhole
	}
	return wholeValues{most: min(most, mostWhole), room: g.Spool.Roomy}
}

// wholeValues is how values are kept whole. Its zero value keeps none.
type wholeValues struct {
	most int
	room func() bool
}

// payload is the audit record's form of a value of the call.
func (x *exchange) payload(raw []byte) *auditv1.Payload {
	if x.whole.most == 0 || len(raw) <= mask.HeadBytes {
		return mask.Payload(raw)
	}
	if !x.whole.room() {
		p := mask.Payload(raw)
		p.NotKept = noRoom
		return p
	}
	return mask.Whole(raw, x.whole.most)
}

// payloadRecorder makes a payload of what is written to it.
type payloadRecorder interface {
	io.Writer
	Payload() *auditv1.Payload
}

// recorder makes the audit record's form of a value that comes in parts.
func (x *exchange) recorder() payloadRecorder {
	if x.whole.most == 0 || !x.whole.room() {
		return &mask.Recorder{}
	}
	return &mask.WholeRecorder{Most: x.whole.most}
}
