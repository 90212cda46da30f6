package export

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/google/uuid"
	policyv1 "sallyport.dev/proto/gen/sallyport/policy/v1"

	"sallyport.dev/controlplane/internal/vault"
)

const (
	// ackEvery is how often Splunk is asked whether it indexed a batch, and ackWithin how long.
	ackEvery  = 500 * time.Millisecond
	ackWithin = 2 * time.Minute
)

// splunk sends batches to an HTTP Event Collector, and waits until they are indexed where that is asked for.
type splunk struct {
	*receiver
	token   vault.Secret
	index   string
	channel string // empty: nothing is waited for
	text    bool   // lines are no JSON
}

func openSplunk(e *policyv1.AuditExporter, secret vault.Secret) (*splunk, error) {
	if len(secret.Reveal()) == 0 {
		return nil, errNoSecret
	}
	r, err := newReceiver(e)
	if err != nil {
		return nil, err
	}
	r.url, r.judge = strings.TrimRight(r.url, "/"), splunkSays
	name, _ := formatOf(e)
	s := &splunk{receiver: r, token: secret, index: e.GetIndex(), text: name == "cef"}
	if e.GetIndexerAck() {
		s.channel = uuid.NewString()
	}
	return s, nil
}

type splunkEvent struct {
	Time       string            `json:"time"`
	Host       string            `json:"host,omitempty"`
	Source     string            `json:"source"`
	SourceType string            `json:"sourcetype"`
	Index      string            `json:"index,omitempty"`
	Event      any               `json:"event"`
	Fields     map[string]string `json:"fields"`
}

// splunkSays tells what a collector's own code says of a batch that it did not take. Where it is the exporter's settings that are wrong, no
// record is at fault, and none is put aside, though the answer is a 400.
func splunkSays(answer []byte) error {
	var said struct {
		Code *int `json:"code"`
	}
	if json.Unmarshal(answer, &said) != nil || said.Code == nil {
		return nil //nolint:nilerr // what is no JSON says no more than its status
	}
	switch code := *said.Code; code {
	case 1, 2, 3, 4:
		what := map[int]string{1: "its token is disabled", 2: "a token is required", 3: "the authorization is invalid", 4: "its token is invalid"}[code]
		return fmt.Errorf("Splunk says that %s (code %d): is the exporter's secret right?", what, code) //nolint:staticcheck // a name
	case 7:
		return errors.New("Splunk does not take the exporter's index (code 7): does it exist, and may the token write to it?") //nolint:staticcheck // a name
	case 10, 11:
		return fmt.Errorf("Splunk wants a data channel (code %d): its token has acknowledgement by the indexer, set indexerAck", code) //nolint:staticcheck // a name
	case 14:
		return errors.New("Splunk's token has no acknowledgement by the indexer (code 14): have it enabled, or leave indexerAck out") //nolint:staticcheck // a name
	}
	return nil
}

func (s *splunk) header() http.Header {
	h := http.Header{"Content-Type": {"application/json"}, "Authorization": {"Splunk " + strings.TrimSpace(string(s.token.Reveal()))}}
	if s.channel != "" {
		h.Set("X-Splunk-Request-Channel", s.channel)
	}
	return h
}

// Send posts a batch.
func (s *splunk) Send(ctx context.Context, items []Item) error {
	var body bytes.Buffer
	write := json.NewEncoder(&body)
	for _, item := range items {
		e := splunkEvent{
			Time: fmt.Sprintf("%.3f", float64(item.Millis())/1000), Host: shown(item.GetProxy()), Source: "sallyport", SourceType: "sallyport:audit", Index: s.index,
			Event: json.RawMessage(item.Line), Fields: map[string]string{"id": shown(item.ID())},
		}
		if s.text {
			e.Event = string(item.Line)
		}
		if err := write.Encode(e); err != nil {
			return fmt.Errorf("writing the message: %w", err)
		}
	}
	answer, err := s.post(ctx, s.url+"/services/collector/event", s.header(), body.Bytes())
	if err != nil || s.channel == "" {
		return err
	}
	var taken struct {
		AckID *int64 `json:"ackId"`
	}
	if json.Unmarshal(answer, &taken) != nil || taken.AckID == nil {
		return errors.New("the receiver gives no ackId: has its token acknowledgement by the indexer?")
	}
	return s.indexed(ctx, *taken.AckID)
}

// indexed waits until a batch is indexed.
func (s *splunk) indexed(ctx context.Context, id int64) error {
	ctx, cancel := context.WithTimeout(ctx, ackWithin)
	defer cancel()
	for {
		answer, err := s.post(ctx, s.url+"/services/collector/ack?channel="+s.channel, s.header(), fmt.Appendf(nil, `{"acks":[%d]}`, id))
		if err != nil {
			var refused *Refusal
			if errors.As(err, &refused) { // it is the question that was refused, no record
				return errors.New(refused.Text)
			}
			return err
		}
		var said struct {
			Acks map[string]bool `json:"acks"`
		}
		if json.Unmarshal(answer, &said) == nil && said.Acks[fmt.Sprint(id)] {
			return nil
		}
		select {
		case <-ctx.Done():
			return errors.New("the receiver did not index a batch in time")
		case <-time.After(ackEvery):
		}
	}
}

// Close lets go of connections.
func (s *splunk) Close() error { return s.close() }
