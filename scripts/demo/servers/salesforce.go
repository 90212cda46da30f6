package servers

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"sync"

	"github.com/modelcontextprotocol/go-sdk/mcp"
)

// Salesforce is a CRM with accounts, contacts and opportunities. It demands a static credential, which only the gateway
// has.
type Salesforce struct {
	*Upstream

	mu      sync.Mutex // guards records and last
	records map[string]Record
	last    int
}

// Record is one record of any object.
type Record struct {
	ID     string            `json:"id"`
	Object string            `json:"object"`
	Fields map[string]string `json:"fields"`
}

// NewSalesforce returns the server with its data. It is stateless and demands `Authorization: Bearer <credential>`.
func NewSalesforce(credential string) *Salesforce {
	s := &Salesforce{Upstream: newUpstream("salesforce", "Salesforce", Stateless), records: map[string]Record{}}
	s.Require("Authorization", "Bearer "+credential)
	s.add("Account", map[string]string{"Name": "Globex", "Industry": "Energy"})
	s.add("Account", map[string]string{"Name": "Initech", "Industry": "Software"})
	s.add("Contact", map[string]string{"Name": "Hank Scorpio", "Email": "hank@globex.example"})
	s.tools()
	return s
}

// add needs s.mu, or no other user yet.
func (s *Salesforce) add(object string, fields map[string]string) Record {
	s.last++
	r := Record{ID: fmt.Sprintf("0%02X%06d", len(object), s.last), Object: object, Fields: maps.Clone(fields)}
	s.records[r.ID] = r
	return r
}

// Records returns the records of an object, by id.
func (s *Salesforce) Records(object string) []Record {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.query(object, nil)
}

// query needs s.mu.
func (s *Salesforce) query(object string, where map[string]string) []Record {
	out := []Record{}
	for _, id := range slices.Sorted(maps.Keys(s.records)) {
		r := s.records[id]
		match := r.Object == object
		for k, v := range where {
			match = match && r.Fields[k] == v
		}
		if match {
			out = append(out, Record{ID: r.ID, Object: r.Object, Fields: maps.Clone(r.Fields)})
		}
	}
	return out
}

type recordQuery struct {
	Object string            `json:"object" jsonschema:"Account, Contact or Opportunity"`
	Where  map[string]string `json:"where,omitempty" jsonschema:"fields that must be equal"`
	Limit  int               `json:"limit,omitempty" jsonschema:"at most this many; default 50"`
}

type recordList struct {
	Records []Record `json:"records"`
}

type recordID struct {
	ID string `json:"id" jsonschema:"id of the record"`
}

type recordUpdate struct {
	ID     string            `json:"id" jsonschema:"id of the record"`
	Fields map[string]string `json:"fields" jsonschema:"fields to set"`
}

type newOpportunity struct {
	AccountID string `json:"account_id" jsonschema:"id of the account"`
	Name      string `json:"name"`
	Amount    int    `json:"amount" jsonschema:"in euros"`
}

type export struct {
	Object string `json:"object" jsonschema:"object whose records are all exported"`
}

type exported struct {
	Rows []string `json:"rows"`
}

func (s *Salesforce) tools() {
	tool(s.Upstream, reads, "query_records", "Find records of one object.",
		func(_ context.Context, _ *mcp.CallToolRequest, in recordQuery) (recordList, error) {
			s.mu.Lock()
			defer s.mu.Unlock()
			if in.Limit <= 0 {
				in.Limit = 50
			}
			found := s.query(in.Object, in.Where)
			return recordList{Records: found[:min(len(found), in.Limit)]}, nil
		})
	tool(s.Upstream, reads, "get_record", "Read one record.",
		func(_ context.Context, _ *mcp.CallToolRequest, in recordID) (Record, error) {
			return s.change(in.ID, func(Record) {})
		})
	tool(s.Upstream, writes, "update_record", "Set fields of one record.",
		func(_ context.Context, _ *mcp.CallToolRequest, in recordUpdate) (Record, error) {
			return s.change(in.ID, func(r Record) { maps.Copy(r.Fields, in.Fields) })
		})
	tool(s.Upstream, writes, "create_opportunity", "Create an opportunity for an account.",
		func(_ context.Context, _ *mcp.CallToolRequest, in newOpportunity) (Record, error) {
			s.mu.Lock()
			defer s.mu.Unlock()
			if r, ok := s.records[in.AccountID]; !ok || r.Object != "Account" {
				return Record{}, fmt.Errorf("account %q not found", in.AccountID)
			}
			return s.add("Opportunity", map[string]string{
				"Name": in.Name, "AccountId": in.AccountID, "Amount": fmt.Sprint(in.Amount), "StageName": "Prospecting",
			}), nil
		})
	tool(s.Upstream, reads, "bulk_export", "Export all records of one object.",
		func(_ context.Context, _ *mcp.CallToolRequest, in export) (exported, error) {
			s.mu.Lock()
			defer s.mu.Unlock()
			out := exported{Rows: []string{}}
			for _, r := range s.query(in.Object, nil) {
				out.Rows = append(out.Rows, fmt.Sprintf("%s,%v", r.ID, r.Fields))
			}
			return out, nil
		})
	tool(s.Upstream, destroys, "delete_record", "Delete one record for good.",
		func(_ context.Context, _ *mcp.CallToolRequest, in recordID) (done, error) {
			if _, err := s.change(in.ID, func(r Record) { delete(s.records, r.ID) }); err != nil {
				return done{}, err
			}
			return done{Status: "deleted " + in.ID}, nil
		})
}

func (s *Salesforce) change(id string, f func(Record)) (Record, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	r, ok := s.records[id]
	if !ok {
		return Record{}, fmt.Errorf("record %q not found", id)
	}
	f(r)
	return Record{ID: r.ID, Object: r.Object, Fields: maps.Clone(r.Fields)}, nil
}
