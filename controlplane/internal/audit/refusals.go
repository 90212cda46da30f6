package audit

import (
	"strconv"
	"sync/atomic"
	"time"

	"golang.org/x/time/rate"
	auditv1 "sallyport.dev/proto/gen/sallyport/audit/v1"
)

const (
	// refusalsPerSecond is how many refusals of one door are kept, on average; atOnce how many that come together.
	refusalsPerSecond = 50
	refusalsAtOnce    = 500
)

// Refusals is a Recorder for a door at which whoever holds no credential can be refused as often as they like. Of those records
// as many are kept as audit can bear, and the next one says, as the detail left_out, how many were not. Each door has its own,
// so that a flood at one hides nothing at another.
type Refusals struct {
	*Recorder

	now     func() time.Time
	kept    *rate.Limiter
	leftOut atomic.Int64
}

// Refusals returns the recorder of a door.
func (r *Recorder) Refusals() *Refusals {
	return &Refusals{Recorder: r, now: time.Now, kept: rate.NewLimiter(refusalsPerSecond, refusalsAtOnce)}
}

// Refuse notes a refusal, unless too many came.
func (d *Refusals) Refuse(rec *auditv1.AuditRecord) {
	if !d.kept.AllowN(d.now(), 1) {
		d.leftOut.Add(1)
		return
	}
	if n := d.leftOut.Swap(0); n > 0 {
		rec.Details = append(rec.Details, &auditv1.Detail{Key: "left_out", Value: strconv.FormatInt(n, 10)})
	}
	d.Note(rec)
}
