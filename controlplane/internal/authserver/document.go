package authserver

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sync/singleflight"
	"golang.org/x/time/rate"

	"sallyport.dev/controlplane/internal/core"
	"sallyport.dev/controlplane/internal/kv"
)

const (
	// maxDocument and documentWithin bound the fetch of a metadata document.
	maxDocument    = 16 << 10
	documentWithin = 5 * time.Second
	// leastFresh and mostFresh bound how long a document counts without another look, freshByDefault is where it does not say.
	leastFresh     = 5 * time.Minute
	mostFresh      = 24 * time.Hour
	freshByDefault = time.Hour
)

// fetches are those of metadata documents: each once at a time, and not too many.
type fetches struct {
	one  *singleflight.Group
	rate *rate.Limiter
}

func newFetches() fetches { return fetches{new(singleflight.Group), rate.NewLimiter(10, 60)} }

// document is a client's metadata document (draft-ietf-oauth-client-id-metadata-document) as far as it is read, and as it is kept.
type document struct {
	ClientID   string   `json:"client_id"`
	ClientName string   `json:"client_name,omitempty"`
	Redirects  []string `json:"redirect_uris"`
	GrantTypes []string `json:"grant_types,omitempty"`
	AuthMethod string   `json:"token_endpoint_auth_method,omitempty"`
	Bound      bool     `json:"dpop_bound_access_tokens,omitempty"`
	Secret     any      `json:"client_secret,omitempty"`
	// A document has no secret, and so none that expires.
	SecretExpires any `json:"client_secret_expires_at,omitempty"`

	// Fresh is until when it counts without another look, ETag what to ask with then, Used when somebody let its client in,
	// or it went on, last.
	Fresh time.Time `json:"sallyport_fresh,omitzero"`
	ETag  string    `json:"sallyport_etag,omitempty"`
	Used  time.Time `json:"sallyport_used,omitzero"`
}

func documentRefused(text string) *refusal {
	return &refusal{code: "invalid_client", text: text, status: http.StatusBadRequest, action: "client_document_refused"}
}

func isDocument(id string) bool { return strings.HasPrefix(id, "https://") }

// checkDocumentURL refuses URLs that cannot be a client's id.
func checkDocumentURL(id string) error {
	u, err := url.Parse(id)
	if err != nil || u.Scheme != "https" || u.Hostname() == "" || u.User != nil || strings.Contains(authority(id), "@") || strings.ContainsAny(id, `#\`) ||
		u.Path == "" || u.Path == "/" || u.RawQuery != "" || u.ForceQuery || !plainHost(u) {
		return documentRefused("the client's id is no https URL of a plain host with a path, and without query, fragment and user name")
	}
	for _, part := range strings.Split(u.EscapedPath(), "/") {
		if plain, err := url.PathUnescape(part); err != nil || plain == "." || plain == ".." {
			return documentRefused("the client's id has dots for a path's part")
		}
	}
	return nil
}

// readDocument returns the document that is kept under a client's id.
func (s *Server) readDocument(ctx context.Context, id string) (d document, kept bool, err error) {
	entry, err := s.Store.Get(ctx, documentKey(id))
	if errors.Is(err, kv.ErrNotFound) {
		return d, false, nil
	}
	if err != nil {
		return d, false, err
	}
	if json.Unmarshal(entry.Value, &d) != nil || d.ClientID != id {
		return document{}, false, nil //nolint:nilerr // what cannot be read is as good as not kept
	}
	return d, true, nil
}

func documentKey(id string) string { return "document." + digest(id) }

// strange tells whether an id would have a document be fetched that nobody here had fetched lately.
func (s *Server) strange(ctx context.Context, state *core.State, id string) (bool, error) {
	if !isDocument(id) || len(state.Client(id).GetRedirectUris()) > 0 {
		return false, nil
	}
	d, kept, err := s.readDocument(ctx, id)
	return !kept || !s.Now().Before(d.Fresh), err
}

// document returns the client that a metadata document describes. It is looked at again where what is kept does not count
// any more. Known: the client is one that somebody let in before, for which nothing is fetched that is not kept, and what is
// kept goes on while its host cannot be reached: an agent's maker that is down stops no agent.
func (s *Server) document(ctx context.Context, id string, known bool) (*client, error) {
	if err := checkDocumentURL(id); err != nil {
		return nil, err
	}
	d, kept, err := s.readDocument(ctx, id)
	if err != nil {
		return nil, err
	}
	if known && !kept {
		return nil, errUnknownClient
	}
	if !kept || !s.Now().Before(d.Fresh) {
		fetched, err := s.look(ctx, id, d)
		switch {
		case err == nil:
			d = fetched
		case !known || !errors.Is(err, errUnreached):
			return nil, err
		}
	}
	return &client{
		id: id, name: cleanName(d.ClientName), host: hostOf(id), redirects: d.Redirects, bound: d.Bound, document: true,
		refresh: len(d.GrantTypes) == 0 || slices.Contains(d.GrantTypes, "refresh_token"),
	}, nil
}

// look fetches a document, each once at a time, and keeps it.
func (s *Server) look(ctx context.Context, id string, before document) (document, error) {
	if s.Documents == nil {
		return document{}, documentRefused("metadata documents cannot be fetched here: ask an administrator to describe the client")
	}
	if !s.fetching.rate.AllowN(s.Now(), 1) {
		return document{}, &refusal{code: "temporarily_unavailable", text: "too many clients are looked up right now: try again in a minute", status: http.StatusTooManyRequests, action: "client_document_refused"}
	}
	fetched, err, _ := s.fetching.one.Do(id, func() (any, error) { return s.fetch(context.WithoutCancel(ctx), id, before) })
	if err != nil {
		return document{}, err
	}
	d, _ := fetched.(document)
	ttl := unusedFor
	if !before.Used.IsZero() {
		ttl = usedFor
	}
	err = s.keepDocument(ctx, id, ttl, func(held *document) error { d.Used = held.Used; *held = d; return nil })
	if err != nil {
		s.Log.WarnContext(ctx, "a client's metadata document could not be kept", "error", err)
	}
	return d, nil
}

// keepDocument changes what is kept of a document.
func (s *Server) keepDocument(ctx context.Context, id string, ttl time.Duration, change func(*document) error) error {
	_, err := s.Store.Change(ctx, documentKey(id), ttl, func(value []byte) ([]byte, error) {
		var d document
		if value != nil && json.Unmarshal(value, &d) != nil {
			d = document{}
		}
		if err := change(&d); err != nil {
			return nil, err
		}
		return json.Marshal(d)
	})
	return err
}

// errUnreached: a document's host did not answer, or failed.
var errUnreached = errors.New("the document's host could not be reached")

func (s *Server) fetch(ctx context.Context, id string, before document) (document, error) {
	ctx, cancel := context.WithTimeout(ctx, documentWithin)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, id, nil)
	if err != nil {
		return document{}, documentRefused("the client's id is no URL")
	}
	req.Header.Set("Accept", "application/json")
	req.Header.Set("User-Agent", "sallyport")
	if before.ETag != "" {
		req.Header.Set("If-None-Match", before.ETag)
	}
	unreached := func(text string) error {
		refused := documentRefused(text)
		refused.cause = errUnreached
		return refused
	}
	res, err := s.Documents.Do(req)
	if err != nil {
		s.Log.InfoContext(ctx, "a client's metadata document could not be fetched", "host", req.URL.Hostname(), "error", fmt.Sprintf("%.300q", err.Error()))
		return document{}, unreached("the client's metadata document could not be fetched: is it at a public address, without redirects, and quick to answer?")
	}
	defer res.Body.Close()
	if res.StatusCode == http.StatusNotModified && before.ETag != "" {
		before.Fresh = s.Now().Add(freshFor(res.Header, s.Now()))
		return before, nil
	}
	if res.StatusCode >= http.StatusInternalServerError || res.StatusCode == http.StatusTooManyRequests {
		return document{}, unreached("the host of the client's metadata document fails: try again later")
	}
	kind, _, _ := mime.ParseMediaType(res.Header.Get("Content-Type"))
	if res.StatusCode != http.StatusOK || kind != "application/json" && !strings.HasSuffix(kind, "+json") {
		return document{}, documentRefused("the client's id does not lead to a JSON document")
	}
	data, err := io.ReadAll(io.LimitReader(res.Body, maxDocument+1))
	if err != nil || ctx.Err() != nil { // when its time is over what came may look whole
		return document{}, unreached("the client's metadata document came too slowly, or not whole")
	}
	if len(data) > maxDocument {
		return document{}, documentRefused("the client's metadata document is too large")
	}
	d, err := readMetadata(id, data)
	if err != nil {
		return document{}, err
	}
	d.Fresh = s.Now().Add(freshFor(res.Header, s.Now()))
	if etag := res.Header.Get("ETag"); len(etag) <= 200 {
		d.ETag = etag
	}
	return d, nil
}

// readMetadata reads what a document says.
func readMetadata(id string, data []byte) (document, error) {
	var d document
	if err := json.Unmarshal(data, &d); err != nil {
		return document{}, documentRefused("the client's metadata document is not what one is")
	}
	d.ETag, d.Fresh, d.Used = "", time.Time{}, time.Time{} // these are not its to say
	switch {
	case d.ClientID != id:
		return document{}, documentRefused("the client's metadata document is of another client")
	case d.Secret != nil || d.SecretExpires != nil || d.AuthMethod != "" && d.AuthMethod != "none":
		return document{}, documentRefused("the client's metadata document asks for a way to authenticate that is not offered to it: none is")
	}
	if err := checkRedirects(d.Redirects); err != nil {
		return document{}, documentRefused("the client's metadata document: " + err.Error())
	}
	return d, nil
}

func checkRedirects(all []string) error {
	if len(all) == 0 || len(all) > 50 {
		return errors.New("it has no redirect URI, or more than 50")
	}
	for _, r := range all {
		if err := checkRedirect(r); err != nil {
			return err
		}
	}
	return nil
}

// freshFor is how long an answer counts (RFC 9111), within bounds.
func freshFor(h http.Header, now time.Time) time.Duration {
	within := func(d time.Duration) time.Duration { return min(max(d, leastFresh), mostFresh) }
	for _, part := range strings.Split(strings.ToLower(strings.Join(h.Values("Cache-Control"), ",")), ",") {
		switch name, value, _ := strings.Cut(strings.TrimSpace(part), "="); name {
		case "no-store", "no-cache":
			return leastFresh
		case "max-age":
			if seconds, err := strconv.Atoi(strings.Trim(value, `"`)); err == nil {
				age, _ := strconv.Atoi(h.Get("Age")) // without one it is none
				return within(time.Duration(min(seconds, 1<<30)-min(max(age, 0), 1<<30)) * time.Second)
			}
		}
	}
	if until, err := http.ParseTime(h.Get("Expires")); err == nil {
		return within(until.Sub(now))
	}
	return freshByDefault
}
