package access

import (
	"errors"
	"fmt"
	"time"

	"google.golang.org/protobuf/encoding/protowire"
	adminv1 "sallyport.dev/proto/gen/sallyport/admin/v1"
	auditv1 "sallyport.dev/proto/gen/sallyport/audit/v1"
)

// recorded is what a backtest reads of an AuditRecord as it is stored, in place: most of a record has no say, and there are millions.
type recorded struct {
	at                               time.Time
	callID, person, region           []byte
	client, address, connector, tool []byte
	method                           []byte
	groups                           [][]byte
	kind, phase                      uint64
	reason                           auditv1.Reason
	asked                            bool // somebody was, or confirmed
	arguments                        []byte
	argumentsCut                     bool // a part of them is there, or not what they were
	authenticated                    bool
	acr                              []byte
	amr                              [][]byte
	authTime                         time.Time
	sealed                           []byte
	conditionValues                  []byte // sealed
	erased                           bool
}

// reset forgets what was read, and keeps the room that it took.
func (r *recorded) reset() { *r = recorded{groups: r.groups[:0], amr: r.amr[:0]} }

// errCompleted: it is of a call that was decided before, and nothing more of it is read.
var errCompleted = errors.New("it is a second record")

// read reads a record, or what was sealed of one, over what was read before.
func (r *recorded) read(data []byte) error {
	return fields(data, func(number protowire.Number, value []byte, n uint64) (err error) {
		switch number {
		case 4:
			r.region = value
		case 5:
			r.at, err = timeOf(value)
		case 6:
			r.callID = value
		case 7:
			if r.phase = n; auditv1.Phase(n) == auditv1.Phase_PHASE_COMPLETED {
				return errCompleted
			}
		case 8:
			r.method = value
		case 9:
			r.person = value
		case 10:
			r.groups = append(r.groups, value)
		case 11:
			err = fields(value, func(number protowire.Number, value []byte, _ uint64) error {
				switch number {
				case 1:
					r.client = value
				case 4:
					r.address = value
				}
				return nil
			})
		case 12:
			r.connector = value
		case 13:
			r.tool = value
		case 14:
			err = fields(value, func(number protowire.Number, value []byte, n uint64) error {
				switch number {
				case 1:
					r.arguments = value
				case 4, 5, 50:
					r.argumentsCut = r.argumentsCut || n != 0
				}
				return nil
			})
		case 16:
			err = fields(value, func(number protowire.Number, value []byte, n uint64) error {
				switch number {
				case 2:
					r.reason = auditv1.Reason(n)
				case 51, 52:
					r.asked = r.asked || len(value) > 0
				}
				return nil
			})
		case 24:
			r.sealed = value
		case 25:
			r.erased = n != 0
		case 55:
			r.conditionValues = value
		case 26:
			r.kind = n
		case 29:
			r.authenticated = true
			err = fields(value, func(number protowire.Number, value []byte, _ uint64) (err error) {
				switch number {
				case 1:
					r.acr = value
				case 2:
					r.amr = append(r.amr, value)
				case 3:
					r.authTime, err = timeOf(value)
				}
				return err
			})
		}
		return err
	})
}

// fields calls a function with each field of a message: with the bytes of one that has some, with the number of another.
func fields(data []byte, fn func(number protowire.Number, value []byte, n uint64) error) error {
	for len(data) > 0 {
		number, kind, n := protowire.ConsumeTag(data)
		if n < 0 {
			return fmt.Errorf("reading a record: %w", protowire.ParseError(n))
		}
		data = data[n:]
		var value []byte
		var varint uint64
		switch kind {
		case protowire.BytesType:
			value, n = protowire.ConsumeBytes(data)
		case protowire.VarintType:
			varint, n = protowire.ConsumeVarint(data)
		default:
			n = protowire.ConsumeFieldValue(number, kind, data)
		}
		if n < 0 {
			return fmt.Errorf("reading a record: %w", protowire.ParseError(n))
		}
		data = data[n:]
		if err := fn(number, value, varint); err != nil {
			return err
		}
	}
	return nil
}

// timeOf reads a google.protobuf.Timestamp.
func timeOf(data []byte) (time.Time, error) {
	var seconds, nanos int64
	err := fields(data, func(number protowire.Number, _ []byte, n uint64) error {
		switch number {
		case 1:
			seconds = int64(n)
		case 2:
			nanos = int64(n)
		}
		return nil
	})
	return time.Unix(seconds, nanos).UTC(), err
}

// decided tells whether a record that was read is of a call on which a verdict was made, whatever it rested on.
func (r *recorded) decided() bool {
	if auditv1.Kind(r.kind) != auditv1.Kind_KIND_UNSPECIFIED || len(r.person) == 0 || len(r.tool) == 0 {
		return false
	}
	switch string(r.method) {
	case "tools/call", "prompts/get", "resources/read":
		return true
	}
	return false
}

// was is the verdict that a record has, if rules made it.
func (r *recorded) was() adminv1.BacktestVerdict {
	switch r.reason {
	case auditv1.Reason_REASON_RULE_ALLOWED:
		if r.asked {
			return adminv1.BacktestVerdict_BACKTEST_VERDICT_ASKED
		}
		return adminv1.BacktestVerdict_BACKTEST_VERDICT_ALLOWED
	case auditv1.Reason_REASON_RULE_DENIED, auditv1.Reason_REASON_NOTHING_ALLOWS, auditv1.Reason_REASON_SIGN_IN_REQUIRED:
		return adminv1.BacktestVerdict_BACKTEST_VERDICT_DENIED
	case auditv1.Reason_REASON_CONFIRM_REQUIRED, auditv1.Reason_REASON_REVIEW_REQUIRED, auditv1.Reason_REASON_CONFIRM_REFUSED, auditv1.Reason_REASON_REVIEW_REFUSED,
		auditv1.Reason_REASON_CONFIRM_INVALID, auditv1.Reason_REASON_APPROVAL_UNAVAILABLE:
		return adminv1.BacktestVerdict_BACKTEST_VERDICT_ASKED
	}
	return 0
}
