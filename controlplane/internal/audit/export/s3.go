package export

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/klauspost/compress/gzip"
	"github.com/minio/minio-go/v7"
	"github.com/minio/minio-go/v7/pkg/credentials"
	policyv1 "sallyport.dev/proto/gen/sallyport/policy/v1"

	"sallyport.dev/controlplane/internal/vault"
)

// objectStore puts each batch as an object of compressed lines. Its name is of what is in it, so that a batch that is put again takes its own place,
// and no other's.
type objectStore struct {
	client         *minio.Client
	transport      *http.Transport
	asked          *askedOf
	bucket, prefix string
	name           string
	extension      string
}

func openObjectStore(e *policyv1.AuditExporter, secret vault.Secret) (*objectStore, error) {
	access, key, found := strings.Cut(strings.TrimSpace(string(secret.Reveal())), ":")
	if len(secret.Reveal()) == 0 {
		return nil, errNoSecret
	}
	if !found {
		return nil, errors.New("its secret is not ACCESSKEY:SECRETKEY")
	}
	u, err := url.Parse(e.GetUrl())
	if err != nil || strings.Trim(u.Path, "/") != "" {
		return nil, errors.New("the url of an object store has no path: name the bucket apart")
	}
	t, err := transport(e)
	if err != nil {
		return nil, err
	}
	region := e.GetRegion()
	if region == "" {
		region = "us-east-1"
	}
	asked := &askedOf{RoundTripper: t}
	client, err := minio.New(u.Host, &minio.Options{
		Creds: credentials.NewStaticV4(access, key, ""), Secure: u.Scheme == "https", Region: region, Transport: asked, MaxRetries: 1,
	})
	if err != nil {
		return nil, fmt.Errorf("its url or region cannot be used: %w", err)
	}
	o := &objectStore{client: client, transport: t, asked: asked, bucket: e.GetBucket(), prefix: e.GetPrefix(), name: e.GetName(), extension: ".jsonl.gz"}
	if name, _ := formatOf(e); name == "cef" {
		o.extension = ".cef.gz"
	}
	return o, nil
}

// Send puts an object.
func (o *objectStore) Send(ctx context.Context, items []Item) error {
	ctx, cancel := context.WithTimeout(ctx, 2*sendTimeout)
	defer cancel()
	var body bytes.Buffer
	digest, lines := sha256.New(), gzip.NewWriter(&body)
	for _, item := range items {
		line := append(item.Line[:len(item.Line):len(item.Line)], '\n')
		digest.Write(line)
		if _, err := lines.Write(line); err != nil {
			return fmt.Errorf("compressing an object: %w", err)
		}
	}
	if err := lines.Close(); err != nil {
		return fmt.Errorf("compressing an object: %w", err)
	}
	first, last := items[0], items[len(items)-1]
	key := fmt.Sprintf("%s%s/%s-%020d-%020d-%s%s", o.prefix, first.Stored.UTC().Format("2006/01/02/15"), o.name, first.Sequence, last.Sequence, hex.EncodeToString(digest.Sum(nil)[:8]), o.extension)
	o.asked.header = nil
	_, err := o.client.PutObject(ctx, o.bucket, key, &body, int64(body.Len()), minio.PutObjectOptions{ContentType: "application/gzip", DisableMultipart: true})
	if err == nil {
		return nil
	}
	if answer := (minio.ErrorResponse{}); errors.As(err, &answer) && answer.Code != "" {
		return busy(fmt.Sprintf("the object store answered %d %s", answer.StatusCode, answer.Code), o.asked.header, time.Now())
	}
	return plain(err)
}

// askedOf keeps the header of a last answer that says to wait, which the client does not tell. A sink sends one object at a time.
type askedOf struct {
	http.RoundTripper
	header http.Header
}

// RoundTrip asks.
func (a *askedOf) RoundTrip(r *http.Request) (*http.Response, error) {
	res, err := a.RoundTripper.RoundTrip(r)
	if a.header = nil; err == nil && (res.StatusCode == http.StatusTooManyRequests || res.StatusCode == http.StatusServiceUnavailable) {
		a.header = res.Header
	}
	return res, err
}

// Close lets go of connections.
func (o *objectStore) Close() error {
	o.transport.CloseIdleConnections()
	return nil
}
