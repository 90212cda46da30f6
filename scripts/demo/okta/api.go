package okta

import (
	"cmp"
	"crypto/subtle"
	"fmt"
	"net/http"
	"slices"
	"strconv"
)

// Ids of the two apps, as the management API names them.
const (
	OIDCAppID = "0oaoidc0000000005d7"
	SCIMAppID = "0oascim0000000005d7"
)

// apiHandler serves what a read-only token may ask of Okta's management API: who is assigned to an app, by pages that Link
// headers join. The OIDC app is everybody's who is not deactivated.
func (o *Org) apiHandler(baseURL string) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /api/v1/apps/{app}/users", func(w http.ResponseWriter, r *http.Request) {
		fail := func(status int, code, summary string) {
			writeJSON(w, status, map[string]string{"errorCode": code, "errorSummary": summary})
		}
		if o.cfg.APIToken == "" || subtle.ConstantTimeCompare([]byte(r.Header.Get("Authorization")), []byte("SSWS "+o.cfg.APIToken)) != 1 {
			fail(http.StatusUnauthorized, "E0000011", "Invalid token provided")
			return
		}
		app := r.PathValue("app")
		if app != OIDCAppID && app != SCIMAppID {
			fail(http.StatusNotFound, "E0000007", "Not found: Resource not found: "+app+" (AppInstance)")
			return
		}
		limit, err := strconv.Atoi(cmp.Or(r.URL.Query().Get("limit"), "50"))
		if err != nil || limit < 1 || limit > 500 {
			fail(http.StatusBadRequest, "E0000001", "Api validation failed: limit")
			return
		}
		type user struct {
			ID          string            `json:"id"`
			ExternalID  string            `json:"externalId,omitempty"`
			Status      string            `json:"status"`
			Scope       string            `json:"scope"`
			Credentials map[string]string `json:"credentials"`
		}
		page := []user{}
		people := o.People()
		slices.SortFunc(people, func(a, b Person) int { return cmp.Compare(a.ID, b.ID) })
		for _, p := range people {
			if p.ID <= r.URL.Query().Get("after") || app == OIDCAppID && p.Status == Deprovisioned || app == SCIMAppID && !p.Assigned {
				continue
			}
			if len(page) == limit {
				w.Header().Add("Link", fmt.Sprintf(`<%s/api/v1/apps/%s/users?after=%s&limit=%d>; rel="next"`, baseURL, app, page[limit-1].ID, limit))
				break
			}
			page = append(page, user{ID: p.ID, ExternalID: p.SCIMID, Status: "ACTIVE", Scope: "GROUP", Credentials: map[string]string{"userName": p.Profile.Login}})
		}
		w.Header().Add("Link", fmt.Sprintf(`<%s%s>; rel="self"`, baseURL, r.URL.RequestURI()))
		writeJSON(w, http.StatusOK, page)
	})
	return mux
}
