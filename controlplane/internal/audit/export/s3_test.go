package export

import (
	"bytes"
	"io"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/johannesboyne/gofakes3"
	"github.com/johannesboyne/gofakes3/backend/s3mem"
	"github.com/klauspost/compress/gzip"
	"google.golang.org/protobuf/proto"
	policyv1 "sallyport.dev/proto/gen/sallyport/policy/v1"

	"sallyport.dev/controlplane/internal/audit/format"
	"sallyport.dev/controlplane/internal/vault"
)

func TestAnObjectStoreHasEachBatchOnce(t *testing.T) {
	t.Parallel()
	objects := s3mem.New()
	if err := objects.CreateBucket("audit"); err != nil {
		t.Fatal(err)
	}
	server := httptest.NewServer(gofakes3.New(objects).Server())
	defer server.Close()
	e := &policyv1.AuditExporter{Name: "lake", Target: policyv1.ExportTarget_EXPORT_TARGET_S3, Url: server.URL, Bucket: "audit", Prefix: "mcp/", AllowedRanges: loopback}
	sink, err := open(e, vault.NewSecret([]byte("access:s3cr3t\n")), "")
	if err != nil {
		t.Fatal(err)
	}
	batch := items(1, 300, format.JSON)
	for range 2 { // the second time it takes its own place
		if err := sink.Send(t.Context(), batch); err != nil {
			t.Fatal(err)
		}
	}
	// Of the same first and last record, and yet another batch.
	if err := sink.Send(t.Context(), append(batch[:1:1], batch[299])); err != nil {
		t.Fatal(err)
	}
	list, err := objects.ListBucket("audit", &gofakes3.Prefix{HasPrefix: true, Prefix: "mcp/"}, gofakes3.ListBucketPage{})
	if err != nil || len(list.Contents) != 2 {
		t.Fatalf("there are %d objects, %v", len(list.Contents), err)
	}
	var all []byte
	for _, content := range list.Contents {
		if !strings.HasPrefix(content.Key, "mcp/2026/09/21/") || !strings.HasSuffix(content.Key, ".jsonl.gz") {
			t.Errorf("an object is named %s", content.Key)
		}
		object, err := objects.GetObject("audit", content.Key, nil)
		if err != nil {
			t.Fatal(err)
		}
		lines, err := gzip.NewReader(object.Contents)
		if err != nil {
			t.Fatal(err)
		}
		data, err := io.ReadAll(lines)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, data...)
	}
	if n := bytes.Count(all, []byte("\n")); n != 302 {
		t.Errorf("the objects hold %d lines", n)
	}
	elsewhere := proto.CloneOf(e)
	elsewhere.Bucket = "none"
	if sink, err = open(elsewhere, vault.NewSecret([]byte("access:s3cr3t")), ""); err != nil {
		t.Fatal(err)
	}
	if err := sink.Send(t.Context(), batch); err == nil || !strings.Contains(err.Error(), "NoSuchBucket") || strings.Contains(err.Error(), "s3cr3t") {
		t.Errorf("a bucket that is not there: %v", err)
	}
}
