package credentials

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"

	"sallyport.dev/controlplane/internal/core"
)

// checkAccount reads whose account a new token is of, and refuses one that the connector's rule does not name: nobody links a private one.
func (k *Keeper) checkAccount(ctx context.Context, connector *core.Connector, t tokens) error {
	rule := connector.Settings.GetAuth().GetOauth().GetAccount()
	if rule == nil {
		return nil
	}
	web, err := k.clients.http(connector.Settings)
	if err != nil {
		return err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, rule.GetUrl(), nil)
	if err != nil {
		return errors.New("the account cannot be read: its URL is none")
	}
	req.Header.Set("Authorization", "Bearer "+t.Access)
	req.Header.Set("Accept", "application/json")
	res, err := web.Do(req)
	if err != nil {
		return errors.New("the account cannot be read now")
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	if err != nil || res.StatusCode != http.StatusOK {
		return fmt.Errorf("the account cannot be read now: HTTP status %d", res.StatusCode)
	}
	for _, is := range valuesAt(body, strings.Split(rule.GetMember(), ".")) {
		for _, allowed := range rule.GetAllowed() {
			if strings.EqualFold(is, allowed) || strings.HasPrefix(allowed, "@") && len(is) > len(allowed) && strings.EqualFold(is[len(is)-len(allowed):], allowed) {
				return nil
			}
		}
	}
	return refuse("the account that you chose is not one that your company allows for %s: choose your work account there", title(connector.Settings))
}

// valuesAt returns the texts under a path of members. In a list a number is a place; any other member is looked for in each of it.
func valuesAt(document raw, path []string) []string {
	if len(path) == 0 {
		var text string
		if json.Unmarshal(document, &text) == nil {
			return []string{text}
		}
		return []string{string(bytes.TrimSpace(document))}
	}
	var list []raw
	if json.Unmarshal(document, &list) == nil {
		if at, err := strconv.Atoi(path[0]); err == nil {
			if at < 0 || at >= len(list) {
				return nil
			}
			return valuesAt(list[at], path[1:])
		}
		var all []string // of any of the list
		for _, one := range list {
			all = append(all, valuesAt(one, path)...)
		}
		return all
	}
	var object map[string]raw
	if json.Unmarshal(document, &object) != nil || object[path[0]] == nil {
		return nil
	}
	return valuesAt(object[path[0]], path[1:])
}

type raw = json.RawMessage
