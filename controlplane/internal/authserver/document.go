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
	ClientID   string    `json:"client_id"`
	ClientName string    `json:"client_name,omitempty"`
	Redirects  []string  `json:"redirect_uris"`
	GrantTypes []string  `json:"grant_types,omitempty"`
	AuthMethod string    `json:"token_endpoint_auth_method,omitempty"`
	Secret     any       `json:"client_secret,omitempty"`
	Fresh      time.Time `json:"fresh,omitzero"`
}

func documentRefused(text string) *refusal {
	return &refusal{code: "invalid_client", text: text, status: http.StatusBadRequest, action: "client_document_refused"}
}

// checkDocumentURL refuses URLs that cannot be a client's id.
func checkDocumentURL(id string) error {
	u, err := url.Parse(id)
	if err != nil || u.Scheme != "https" || u.Hostname() == "" || u.User != nil || strings.Contains(authority(id), "@") || strings.ContainsAny(id, `#\`) ||
		u.Path == "" || u.Path == "/" || u.RawQuery != "" || strings.ContainsFunc(u.Host, func(r rune) bool { return r > 127 }) {
		return documentRefused("the client's id is no https URL with a path, and without query, fragment and user name")
	}
	for _, part := range strings.Split(u.EscapedPath(), "/") {
		if plain, err := url.PathUnescape(part); err != nil || plain == "." || plain == ".." {
			return documentRefused("the client's id has dots for a path's part")
		}
	}
	return nil
}

// document returns the client that a metadata document describes. It is fetched where none is kept that still counts.
func (s *Server) document(ctx context.Context, id string) (*client, error) {
	if err := checkDocumentURL(id); err != nil {
		return nil, err
	}
	if s.Documents == nil {
		return nil, documentRefused("metadata documents cannot be fetched here: ask an administrator to describe the client")
	}
	key := "document." + digest(id)
	entry, err := s.Store.Get(ctx, key)
	if err != nil && !errors.Is(err, kv.ErrNotFound) {
		return nil, err
	}
	var d document
	if err != nil || json.Unmarshal(entry.Value, &d) != nil || !s.Now().Before(d.Fresh) || d.ClientID != id {
		if !s.fetching.rate.Allow() {
			return nil, &refusal{code: "temporarily_unavailable", text: "too many clients are looked up right now: try again in a minute", status: http.StatusTooManyRequests}
		}
		fetched, err, _ := s.fetching.one.Do(id, func() (any, error) { return s.fetch(context.WithoutCancel(ctx), id) })
		if err != nil {
			return nil, err
		}
		d, _ = fetched.(document)
		if value, err := json.Marshal(d); err == nil {
			_, err = s.Store.Change(ctx, key, max(d.Fresh.Sub(s.Now()), time.Second), func([]byte) ([]byte, error) { return value, nil })
			if err != nil {
				s.Log.WarnContext(ctx, "a client's metadata document could not be kept", "error", err)
			}
		}
	}
	return &client{
		id: id, name: cleanName(d.ClientName), host: hostOf(id), redirects: d.Redirects,
		refresh: len(d.GrantTypes) == 0 || slices.Contains(d.GrantTypes, "refresh_token"),
	}, nil
}

func (s *Server) fetch(ctx context.Context, id string) (document, error) {
	ctx, cancel := context.WithTimeout(ctx, documentWithin)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, id, nil)
	if err != nil {
		return document{}, documentRefused("the client's id is no URL")
	}
	req.Header.Set("Accept", "application/json")
	req.Header.Set("User-Agent", "sallyport")
	res, err := s.Documents.Do(req)
	if err != nil {
		s.Log.InfoContext(ctx, "a client's metadata document could not be fetched", "host", req.URL.Hostname(), "error", fmt.Sprintf("%.300q", err.Error()))
		return document{}, documentRefused("the client's metadata document could not be fetched: is it at a public address, without redirects, and quick to answer?")
	}
	defer res.Body.Close()
	kind, _, _ := mime.ParseMediaType(res.Header.Get("Content-Type"))
	if res.StatusCode != http.StatusOK || kind != "application/json" && !strings.HasSuffix(kind, "+json") {
		return document{}, documentRefused("the client's id does not lead to a JSON document")
	}
	data, err := io.ReadAll(io.LimitReader(res.Body, maxDocument+1))
	if err != nil || len(data) > maxDocument {
		return document{}, documentRefused("the client's metadata document is too large, or came too slowly")
	}
	var d document
	if err := json.Unmarshal(data, &d); err != nil {
		return document{}, documentRefused("the client's metadata document is not what one is")
	}
	switch {
	case d.ClientID != id:
		return document{}, documentRefused("the client's metadata document is of another client")
	case d.Secret != nil || d.AuthMethod != "" && d.AuthMethod != "none":
		return document{}, documentRefused("the client's metadata document asks for a way to authenticate that is not offered to it: none is")
	}
	if err := checkRedirects(d.Redirects); err != nil {
		return document{}, documentRefused("the client's metadata document: " + err.Error())
	}
	d.Fresh = s.Now().Add(freshFor(res.Header))
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
func freshFor(h http.Header) time.Duration {
	for _, part := range strings.Split(strings.ToLower(h.Get("Cache-Control")), ",") {
		switch name, value, _ := strings.Cut(strings.TrimSpace(part), "="); name {
		case "no-store", "no-cache":
			return leastFresh
		case "max-age":
			if seconds, err := strconv.Atoi(strings.Trim(value, `"`)); err == nil {
				return min(max(time.Duration(min(seconds, 1<<30))*time.Second, leastFresh), mostFresh)
			}
		}
	}
	return freshByDefault
}
