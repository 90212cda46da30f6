package fleet

import (
	"context"
	"errors"
	"fmt"
	"time"

	"buf.build/go/protovalidate"
	"connectrpc.com/connect"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"
	auditv1 "sallyport.dev/proto/gen/sallyport/audit/v1"
	fleetv1 "sallyport.dev/proto/gen/sallyport/fleet/v1"
)

// mostRecords is the most of one delivery.
const mostRecords = 5000

// DeliverAudit stores a run of the calling proxy's records.
func (s *Server) DeliverAudit(ctx context.Context, req *connect.Request[fleetv1.DeliverAuditRequest]) (*connect.Response[fleetv1.DeliverAuditResponse], error) {
	token, err := s.proxy(ctx)
	if err != nil {
		return nil, err
	}
	if err := protovalidate.Validate(&fleetv1.DeliverAuditRequest{SpoolGeneration: req.Msg.GetSpoolGeneration()}); err != nil {
		return nil, connect.NewError(connect.CodeInvalidArgument, err)
	}
	records, err := encodedRecords(req.Msg)
	if err != nil {
		return nil, connect.NewError(connect.CodeInvalidArgument, err)
	}
	acknowledged, err := s.config.Audit.Take(ctx, token.Name, token.Region, req.Msg.GetSpoolGeneration(), records)
	if err != nil {
		s.config.Log.WarnContext(ctx, "audit of a proxy could not be stored", "proxy", token.Name, "error", err)
		return nil, connect.NewError(connect.CodeUnavailable, errors.New("the records could not be stored: send them again later"))
	}
	s.delivered(token.Region, records)
	return connect.NewResponse(&fleetv1.DeliverAuditResponse{Acknowledged: acknowledged}), nil
}

// delivered tells who used what, as records say that are durable.
func (s *Server) delivered(region string, records [][]byte) {
	if s.config.Seen == nil && s.config.Delivered == nil {
		return
	}
	uses := usesOf(records)
	if seen := s.config.Seen; seen != nil {
		for _, u := range uses {
			seen(u.GetPersonId(), u.GetClient().GetId(), region, u.GetAt().AsTime())
		}
	}
	if delivered := s.config.Delivered; delivered != nil {
		delivered(uses)
	}
}

// undecoded reads deliveries of audit and leaves their records as they came, among what is not known: to decode them would take longer than to do
// with them what is to be done.
type undecoded struct{}

func (undecoded) Name() string { return "proto" }

func (undecoded) Marshal(m any) ([]byte, error) {
	p, ok := m.(proto.Message)
	if !ok {
		return nil, fmt.Errorf("%T is no message", m)
	}
	return proto.Marshal(p)
}

func (undecoded) Unmarshal(b []byte, m any) error {
	req, ok := m.(*fleetv1.DeliverAuditRequest)
	if !ok {
		return fmt.Errorf("%T is no delivery of audit", m)
	}
	kept := make([]byte, 0, len(b)) // b is not ours
	for len(b) > 0 {
		number, kind, n := protowire.ConsumeField(b)
		switch {
		case n < 0:
			return protowire.ParseError(n)
		case number == fieldRecords && kind == protowire.BytesType:
			kept = append(kept, b[:n]...)
		default:
			if err := (proto.UnmarshalOptions{Merge: true, DiscardUnknown: true}).Unmarshal(b[:n], req); err != nil {
				return err
			}
		}
		b = b[n:]
	}
	req.ProtoReflect().SetUnknown(kept)
	return nil
}

const fieldRecords protowire.Number = 2

// encodedRecords are a delivery's records: those that were left as they came, or those of a client that speaks JSON.
func encodedRecords(m *fleetv1.DeliverAuditRequest) ([][]byte, error) {
	var all [][]byte
	for b := m.ProtoReflect().GetUnknown(); len(b) > 0 && len(all) <= mostRecords; {
		_, _, tag := protowire.ConsumeTag(b)
		value, n := protowire.ConsumeBytes(b[tag:])
		all, b = append(all, value), b[tag+n:]
	}
	if len(all)+len(m.GetRecords()) > mostRecords {
		return nil, fmt.Errorf("a delivery has at most %d records", mostRecords)
	}
	for _, r := range m.GetRecords() {
		b, err := proto.Marshal(r)
		if err != nil {
			return nil, err
		}
		all = append(all, b)
	}
	return all, nil
}

// The fields of a record that tell who used what.
const (
	fieldAt        protowire.Number = 5
	fieldPhase     protowire.Number = 7
	fieldPersonID  protowire.Number = 9
	fieldClient    protowire.Number = 11
	fieldConnector protowire.Number = 12
	fieldKind      protowire.Number = 26
)

// usesOf says who used what: of records that are alike in that, the first and the last, and nothing else that is in them.
func usesOf(records [][]byte) []*auditv1.AuditRecord {
	type span struct{ first, last time.Time }
	spans := map[string]*span{}
	var use []byte
	for _, b := range records {
		use = use[:0]
		var at timestamppb.Timestamp
		for len(b) > 0 {
			number, _, n := protowire.ConsumeField(b)
			if n < 0 {
				break
			}
			switch number {
			case fieldPhase, fieldPersonID, fieldClient, fieldConnector, fieldKind:
				use = append(use, b[:n]...)
			case fieldAt:
				_, _, tag := protowire.ConsumeTag(b)
				value, _ := protowire.ConsumeBytes(b[tag:])
				_ = proto.Unmarshal(value, &at) // it is stored: it is one
			}
			b = b[n:]
		}
		when := at.AsTime()
		switch s := spans[string(use)]; {
		case s == nil:
			spans[string(use)] = &span{when, when}
		case when.Before(s.first):
			s.first = when
		case when.After(s.last):
			s.last = when
		}
	}
	var all []*auditv1.AuditRecord
	for use, s := range spans {
		r := &auditv1.AuditRecord{}
		if proto.Unmarshal([]byte(use), r) != nil {
			continue // as above
		}
		r.At = timestamppb.New(s.first)
		all = append(all, r)
		if s.last.After(s.first) {
			r = proto.CloneOf(r)
			r.At = timestamppb.New(s.last)
			all = append(all, r)
		}
	}
	return all
}
