package okta

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
)

// ControlRequest is one admin change, for callers in another process. Action is one of the names in Control.
type ControlRequest struct {
	Login   string    `json:"login,omitempty"`
	Profile Profile   `json:"profile,omitzero"`
	Group   string    `json:"group,omitempty"`
	Kind    GroupKind `json:"kind,omitempty"`
	Name    string    `json:"name,omitempty"`
	Add     []string  `json:"add,omitempty"`
	Remove  []string  `json:"remove,omitempty"`
}

// ControlState is the whole org, as GET /control/state shows it.
type ControlState struct {
	People []Person `json:"people"`
	Groups []Group  `json:"groups"`
}

type controlError struct {
	Error string `json:"error"`
}

// Control makes one admin change by its name: add-user, update-profile, deactivate, reactivate, suspend, unsuspend, log-out,
// create-group, rename-group, change-group, push-group, unlink-group.
func (o *Org) Control(ctx context.Context, action string, r ControlRequest) (Push, error) {
	switch action {
	case "add-user":
		_, err := o.AddUser(r.Profile)
		return Push{}, err
	case "update-profile":
		return o.UpdateProfile(ctx, r.Login, r.Profile)
	case "deactivate":
		return o.Deactivate(ctx, r.Login)
	case "reactivate":
		return o.Reactivate(ctx, r.Login)
	case "suspend":
		return o.Suspend(ctx, r.Login)
	case "unsuspend":
		return Push{}, o.Unsuspend(r.Login)
	case "log-out":
		return o.LogOut(ctx, r.Login)
	case "create-group":
		return o.CreateGroup(ctx, r.Group, r.Kind)
	case "rename-group":
		return o.RenameGroup(ctx, r.Group, r.Name)
	case "change-group":
		return o.ChangeGroup(ctx, r.Group, r.Add, r.Remove)
	case "push-group":
		return o.PushGroup(ctx, r.Group)
	case "unlink-group":
		return o.UnlinkGroup(ctx, r.Group)
	default:
		return Push{}, fmt.Errorf("action %q: %w", action, ErrNotFound)
	}
}

// controlHandler serves Control on the org's own listener, which is on loopback. A page in a browser cannot use it: it
// must be called by its loopback address, and a JSON content type is something that no cross-site form sends.
func (o *Org) controlHandler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /control/state", func(w http.ResponseWriter, _ *http.Request) {
		writeJSON(w, http.StatusOK, ControlState{People: o.People(), Groups: o.Groups()})
	})
	mux.HandleFunc("POST /control/{action}", o.serveControl)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !strings.HasPrefix(r.Host, "127.0.0.1:") && !strings.HasPrefix(r.Host, "[::1]:") {
			writeJSON(w, http.StatusForbidden, controlError{Error: "call this by its loopback address"})
			return
		}
		mux.ServeHTTP(w, r)
	})
}

func (o *Org) serveControl(w http.ResponseWriter, r *http.Request) {
	if r.Header.Get("Content-Type") != "application/json" {
		writeJSON(w, http.StatusUnsupportedMediaType, controlError{Error: "send application/json"})
		return
	}
	var req ControlRequest
	dec := json.NewDecoder(io.LimitReader(r.Body, 1<<20))
	dec.DisallowUnknownFields()
	if err := dec.Decode(&req); err != nil {
		writeJSON(w, http.StatusBadRequest, controlError{Error: "read the request: " + err.Error()})
		return
	}
	push, err := o.Control(r.Context(), r.PathValue("action"), req)
	if err != nil {
		status := http.StatusConflict
		var refused *SCIMError
		switch {
		case errors.Is(err, ErrNotFound):
			status = http.StatusNotFound
		case errors.As(err, &refused):
			status = http.StatusBadGateway
		}
		writeJSON(w, status, controlError{Error: err.Error()})
		return
	}
	writeJSON(w, http.StatusOK, push)
}

func writeJSON(w http.ResponseWriter, status int, v any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	// The status is out: a client that went away is all that can fail here.
	_ = json.NewEncoder(w).Encode(v)
}
