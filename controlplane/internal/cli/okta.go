package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	adminv1 "sallyport.dev/proto/gen/sallyport/admin/v1"
	"sallyport.dev/proto/gen/sallyport/admin/v1/adminv1connect"
)

// okta is how to ask Okta's API who is assigned to its two apps.
type okta struct{ url, token, oidc, scim string }

func (k *okta) complete() error {
	u, err := url.Parse(k.url)
	loopback := u != nil && (u.Hostname() == "127.0.0.1" || u.Hostname() == "localhost" || u.Hostname() == "::1")
	switch {
	case k.url == "" || k.oidc == "" || k.scim == "":
		return usage("to compare with Okta name --okta-url, --oidc-app and --scim-app")
	case k.token == "":
		return usage("to compare with Okta give a read-only API token by --okta-token-file or OKTA_API_TOKEN")
	case err != nil || u.Host == "" || u.Scheme != "https" && (u.Scheme != "http" || !loopback):
		return usage("--okta-url is an https URL, such as https://example.okta.com")
	}
	k.url = u.Scheme + "://" + u.Host
	return nil
}

// assigned is somebody who is assigned to an app: by Okta's id, and what the app calls them.
type assigned struct {
	ID          string `json:"id"`
	ExternalID  string `json:"externalId"`
	Status      string `json:"status"`
	Credentials struct {
		UserName string `json:"userName"`
	} `json:"credentials"`
}

const (
	// maxAssigned bounds who is read of one app.
	maxAssigned = 1_000_000
	maxPage     = 16 << 20
)

// people are those who are assigned to an app, by id (Okta API: List all application users). Pages follow by Link headers.
func (k *okta) people(ctx context.Context, app string) (map[string]string, error) {
	all := map[string]string{}
	next := k.url + "/api/v1/apps/" + url.PathEscape(app) + "/users?limit=500"
	client := &http.Client{Timeout: 30 * time.Second, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	for next != "" && len(all) < maxAssigned {
		if !strings.HasPrefix(next, k.url+"/") {
			return nil, errors.New("Okta's API names a page at another host: it is not asked") //nolint:staticcheck // a name begins it
		}
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, next, nil)
		if err != nil {
			return nil, fmt.Errorf("asking Okta's API: %w", err)
		}
		req.Header.Set("Authorization", "SSWS "+k.token)
		req.Header.Set("Accept", "application/json")
		page, link, err := k.page(client, req, app)
		if err != nil {
			return nil, err
		}
		before := len(all)
		for _, one := range page {
			all[one.ID] = one.Credentials.UserName
		}
		if next = link; len(all) == before && next != "" {
			return nil, fmt.Errorf("the API of Okta repeats a page of app %s", app)
		}
	}
	return all, nil
}

func (k *okta) page(client *http.Client, req *http.Request, app string) (page []assigned, next string, err error) {
	res, err := client.Do(req)
	if err != nil {
		return nil, "", fmt.Errorf("asking Okta's API: %w", err)
	}
	defer res.Body.Close()
	switch res.StatusCode {
	case http.StatusOK:
	case http.StatusUnauthorized, http.StatusForbidden:
		return nil, "", fmt.Errorf("the API of Okta does not take the token (status %d): it must be valid, and may read apps", res.StatusCode)
	case http.StatusNotFound:
		return nil, "", fmt.Errorf("the API of Okta knows no app %q: its id is in the URL of the app's page in the admin console", app)
	case http.StatusTooManyRequests:
		return nil, "", errors.New("the API of Okta was asked too often: try again in a minute")
	default:
		return nil, "", fmt.Errorf("the API of Okta answers with status %d", res.StatusCode)
	}
	if err := json.NewDecoder(io.LimitReader(res.Body, maxPage)).Decode(&page); err != nil {
		return nil, "", fmt.Errorf("reading who is assigned to app %s: %w", app, err)
	}
	for _, link := range res.Header.Values("Link") {
		for one := range strings.SplitSeq(link, ",") {
			at, rel, _ := strings.Cut(one, ";")
			if strings.Contains(rel, `rel="next"`) {
				next = strings.Trim(strings.TrimSpace(at), "<>")
			}
		}
	}
	return page, next, nil
}

// compare says who may sign in and is not provisioned, and the reverse.
func (k *okta) compare(ctx context.Context, o *options, directory string) ([]*adminv1.Finding, error) {
	oidc, err := k.people(ctx, k.oidc)
	if err != nil {
		return nil, err
	}
	scim, err := k.people(ctx, k.scim)
	if err != nil {
		return nil, err
	}
	provisioned := map[string]string{} // userName by externalId, of those who are active
	for token := ""; ; {
		res, err := ask(ctx, o, adminv1connect.NewDirectoryServiceClient, adminv1connect.DirectoryServiceClient.ListUsers, &adminv1.ListUsersRequest{DirectoryId: directory, PageSize: 1000, PageToken: token})
		if err != nil {
			return nil, err
		}
		for _, u := range res.GetUsers() {
			if u.GetActive() {
				provisioned[u.GetExternalId()] = u.GetUserName()
			}
		}
		if token = res.GetNextPageToken(); token == "" {
			break
		}
	}
	findings := []*adminv1.Finding{
		missing("okta: may sign in, not provisioned", oidc, provisioned, "these are assigned to the OIDC app and are not provisioned: they sign in and have no access",
			"assign them to the SCIM app too; the same assignment group for both apps keeps the two alike. Who is assigned there already: see the app's provisioning tasks at Okta"),
		missing("okta: provisioned, may not sign in", provisioned, oidc, "these are provisioned and not assigned to the OIDC app: Okta does not let them sign in", "assign them to the OIDC app too"),
		missing("okta: assigned, not provisioned", scim, provisioned, "these are assigned to the SCIM app and did not come", "look at the app's provisioning tasks at Okta, and at sallyport scim status"),
		missing("okta: provisioned, not assigned", provisioned, scim, "these are active here and not assigned to the SCIM app any more: Okta did not say so", "deactivate them by assigning and unassigning them at Okta, or block them: sallyport blocks place --person"),
	}
	findings[3].Severity = worse(findings[3], adminv1.Severity_SEVERITY_PROBLEM)
	return findings, nil
}

func worse(f *adminv1.Finding, s adminv1.Severity) adminv1.Severity {
	if f.GetSeverity() == adminv1.Severity_SEVERITY_GOOD {
		return f.GetSeverity()
	}
	return s
}

// missing says who is among some and not among others.
func missing(check string, some, others map[string]string, text, next string) *adminv1.Finding {
	var names []string
	for id, name := range some {
		if _, there := others[id]; !there {
			names = append(names, name+" ("+id+")")
		}
	}
	if len(names) == 0 {
		return &adminv1.Finding{Check: check, Severity: adminv1.Severity_SEVERITY_GOOD, Text: fmt.Sprintf("nobody, of %d", len(some))}
	}
	slices.Sort(names)
	return &adminv1.Finding{Check: check, Severity: adminv1.Severity_SEVERITY_WARNING, Text: text, Next: next, People: names[:min(len(names), 100)], Count: uint32(len(names))}
}
