package replica

import (
	"bytes"
	"context"
	"net/http"
	"net/http/httptest"
	"net/url"
	"testing"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/proto"
	auditv1 "sallyport.dev/proto/gen/sallyport/audit/v1"
	fleetv1 "sallyport.dev/proto/gen/sallyport/fleet/v1"
	"sallyport.dev/proto/gen/sallyport/fleet/v1/fleetv1connect"

	"sallyport.dev/dataplane/internal/spool"
)

// taker counts the records that it is given.
type taker struct {
	fleetv1connect.UnimplementedFleetServiceHandler
}

func (taker) DeliverAudit(_ context.Context, req *connect.Request[fleetv1.DeliverAuditRequest]) (*connect.Response[fleetv1.DeliverAuditResponse], error) {
	return connect.NewResponse(&fleetv1.DeliverAuditResponse{Acknowledged: uint64(len(req.Msg.GetRecords()))}), nil
}

// TestDeliveriesAreCompressedOverANetwork: what goes to another machine is a fraction of what it says, and arrives whole; small requests,
// and all that stays on this machine, go as they are.
func TestDeliveriesAreCompressedOverANetwork(t *testing.T) {
	var encoding string
	var size int64
	_, handler := fleetv1connect.NewFleetServiceHandler(taker{})
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		encoding, size = r.Header.Get("Content-Encoding"), r.ContentLength
		handler.ServeHTTP(w, r)
	}))
	t.Cleanup(server.Close)
	one, err := proto.Marshal(&auditv1.AuditRecord{Connector: "github", Tool: "list_branches", Arguments: &auditv1.Payload{Head: bytes.Repeat([]byte(`{"owner":"acme"}`), 20)}})
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		options []connect.ClientOption
		records int
		want    string
	}{
		"a network":                       {compressed(), 200, "gzip"},
		"a network, and little to say":    {compressed(), 2, ""},
		"nothing, on the same machine":    {compression(parsed(t, server.URL)), 200, ""},
		"nothing, by name":                {compression(parsed(t, "https://localhost:7403")), 200, ""},
		"nothing, by the other protocol":  {compression(parsed(t, "https://[::1]:7403")), 200, ""},
		"a network, to an address":        {compression(parsed(t, "https://192.0.2.7:7403")), 200, "gzip"},
		"a network, to a control plane's": {compression(parsed(t, "https://control.example.com:7403")), 200, "gzip"},
	} {
		client := &Client{}
		client.open.Store(&connections{peers: []peer{{FleetServiceClient: fleetv1connect.NewFleetServiceClient(server.Client(), server.URL, c.options...)}}})
		records := make([]spool.Record, c.records)
		for i := range records {
			records[i] = spool.Record{Data: one}
		}
		encoding, size = "", 0
		got, err := client.DeliverAudit(t.Context(), "g", records)
		if err != nil || got != uint64(c.records) || encoding != c.want {
			t.Errorf("%s: %d of %d records arrived, encoding %q: %v", name, got, c.records, encoding, err)
		}
		if c.want != "" && size > int64(c.records*len(one)/4) {
			t.Errorf("%s: %d bytes for %d records of %d", name, size, c.records, len(one))
		}
	}
}

func parsed(t *testing.T, text string) *url.URL {
	t.Helper()
	u, err := url.Parse(text)
	if err != nil {
		t.Fatal(err)
	}
	return u
}
