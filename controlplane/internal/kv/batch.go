package kv

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nuid"
)

// MaxBatch is the most keys that one CreateBatch takes: JetStream's limit.
const MaxBatch = 1000

// KeyValue is a key with the value that it is to have.
type KeyValue struct {
	Key   string
	Value []byte
}

// CreateBatch stores values where there are none, all or none, as one write. ErrExists: at least one key
// is there; read which. After any other error some try again is needed, which is safe: what was stored by
// this call is found as existing.
func (s *Store) CreateBatch(ctx context.Context, all []KeyValue) error {
	switch {
	case len(all) == 0:
		return nil
	case len(all) > MaxBatch:
		return fmt.Errorf("creating keys: at most %d at once, not %d", MaxBatch, len(all))
	case len(all) == 1:
		_, err := s.Create(ctx, all[0].Key, all[0].Value, 0)
		return err
	}
	id := nuid.Next()
	for i, kv := range all {
		m := &nats.Msg{Subject: s.prefix + kv.Key, Data: kv.Value, Header: nats.Header{
			"Nats-Batch-Id": {id}, "Nats-Batch-Sequence": {strconv.Itoa(i + 1)}, "Nats-Expected-Last-Subject-Sequence": {"0"},
		}}
		if i < len(all)-1 {
			if err := s.nc.PublishMsg(m); err != nil {
				return fmt.Errorf("creating keys: %w", err)
			}
			continue
		}
		m.Header["Nats-Batch-Commit"] = []string{"1"}
		answer, err := s.nc.RequestMsgWithContext(ctx, m)
		if err != nil {
			return fmt.Errorf("creating keys: %w", err)
		}
		return batchAnswer(answer.Data)
	}
	return nil
}

func batchAnswer(data []byte) error {
	var answer struct {
		Error *struct {
			Code        int    `json:"err_code"`
			Description string `json:"description"`
		} `json:"error"`
	}
	if err := json.Unmarshal(data, &answer); err != nil {
		return fmt.Errorf("reading the acknowledgement of keys: %w", err)
	}
	switch {
	case answer.Error == nil:
		return nil
	case answer.Error.Code == 10071 || answer.Error.Code == 10164:
		return ErrExists
	}
	return errors.New("creating keys: " + answer.Error.Description)
}
