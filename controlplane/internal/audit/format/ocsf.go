package format

import (
	"encoding/hex"
	"encoding/json"
	"net/netip"
	"slices"
	"strings"
	"time"

	auditv1 "sallyport.dev/proto/gen/sallyport/audit/v1"
)

// ocsfVersion is the version of the Open Cybersecurity Schema Framework that is written, with its cloud profile.
const ocsfVersion = "1.2.0"

const (
	ocsfEntityManagement = 3004
	ocsfAuthentication   = 3002
	ocsfAPIActivity      = 6003

	// maxGroups bounds the groups that are told of a person.
	maxGroups = 256

	other = 99
)

// OCSF writes a record as an event of the Open Cybersecurity Schema Framework: sign-ins and what ends them as Authentication,
// changes and the health of proxies and connectors as Entity Management, all else as API Activity. What the framework has no
// place for is in `unmapped`, by the names of sallyport.audit.v1.
func OCSF(r Record) []byte {
	e := &ocsfEvent{
		Time: r.Millis(), Message: r.sentence(), StatusCode: reason(r), StatusDetail: r.GetDecision().GetText(),
		Cloud:    ocsfCloud{Provider: "Sallyport", Region: r.GetRegion()},
		Metadata: metadata(r), SrcEndpoint: source(r), Unmapped: unmapped(r),
	}
	if e.StatusCode == "" {
		e.StatusCode = outcome(r)
	}
	if e.StatusDetail == "" {
		e.StatusDetail = r.GetError()
	}
	if r.GetDuration() != nil {
		ms := r.GetDuration().AsDuration().Milliseconds()
		start := e.Time - ms
		e.Duration, e.StartTime, e.EndTime = &ms, &start, &e.Time
	}
	e.severity(r)
	e.status(r)
	actor := actor(r)
	switch r.GetKind() {
	case auditv1.Kind_KIND_SIGN_IN, auditv1.Kind_KIND_SIGN_IN_FAILED, auditv1.Kind_KIND_REVOCATION:
		e.class(ocsfAuthentication, "Authentication", 3, "Identity & Access Management")
		e.Actor = actor
		authentication(e, r)
	case auditv1.Kind_KIND_CHANGE, auditv1.Kind_KIND_HEALTH:
		e.class(ocsfEntityManagement, "Entity Management", 3, "Identity & Access Management")
		e.Actor, e.Entity = actor, entity(r)
		id, name := changeActivity(r)
		e.activity(id, name)
	default:
		e.class(ocsfAPIActivity, "API Activity", 6, "Application Activity")
		e.Actor = actor
		apiActivity(e, r)
	}
	line, err := json.Marshal(e)
	if err != nil { // strings, numbers and what they are made of can always be written
		line = []byte(`{}`)
	}
	return harden(line)
}

type ocsfEvent struct {
	ClassUID     int            `json:"class_uid"`
	ClassName    string         `json:"class_name"`
	CategoryUID  int            `json:"category_uid"`
	CategoryName string         `json:"category_name"`
	ActivityID   int            `json:"activity_id"`
	ActivityName string         `json:"activity_name"`
	TypeUID      int            `json:"type_uid"`
	TypeName     string         `json:"type_name"`
	SeverityID   int            `json:"severity_id"`
	Severity     string         `json:"severity"`
	StatusID     int            `json:"status_id"`
	Status       string         `json:"status"`
	StatusCode   string         `json:"status_code,omitempty"`
	StatusDetail string         `json:"status_detail,omitempty"`
	Time         int64          `json:"time"`
	StartTime    *int64         `json:"start_time,omitempty"`
	EndTime      *int64         `json:"end_time,omitempty"`
	Duration     *int64         `json:"duration,omitempty"`
	Message      string         `json:"message"`
	Metadata     ocsfMetadata   `json:"metadata"`
	Cloud        ocsfCloud      `json:"cloud"`
	Actor        *ocsfActor     `json:"actor,omitempty"`
	SrcEndpoint  ocsfEndpoint   `json:"src_endpoint"`
	DstEndpoint  *ocsfEndpoint  `json:"dst_endpoint,omitempty"`
	Unmapped     map[string]any `json:"unmapped,omitempty"`

	API       *ocsfAPI       `json:"api,omitempty"`
	Resources []ocsfResource `json:"resources,omitempty"`

	User    *ocsfUser    `json:"user,omitempty"`
	Session *ocsfSession `json:"session,omitempty"`
	Service *ocsfService `json:"service,omitempty"`
	MFA     *bool        `json:"is_mfa,omitempty"`

	Entity *ocsfEntity `json:"entity,omitempty"`
}

type ocsfMetadata struct {
	Version     string      `json:"version"`
	Product     ocsfProduct `json:"product"`
	UID         string      `json:"uid"`
	Correlation string      `json:"correlation_uid,omitempty"`
	EventCode   string      `json:"event_code"`
	LogName     string      `json:"log_name"`
	LogProvider string      `json:"log_provider,omitempty"`
	LoggedTime  int64       `json:"logged_time,omitempty"`
	Sequence    uint64      `json:"sequence,omitempty"`
	Profiles    []string    `json:"profiles"`
}

type ocsfProduct struct {
	Name       string `json:"name"`
	VendorName string `json:"vendor_name"`
}

type ocsfCloud struct {
	Provider string `json:"provider"`
	Region   string `json:"region,omitempty"`
}

type ocsfActor struct {
	User           *ocsfUser           `json:"user,omitempty"`
	Session        *ocsfSession        `json:"session,omitempty"`
	AppName        string              `json:"app_name,omitempty"`
	AppUID         string              `json:"app_uid,omitempty"`
	Authorizations []ocsfAuthorization `json:"authorizations,omitempty"`
}

type ocsfUser struct {
	UID    string      `json:"uid,omitempty"`
	Name   string      `json:"name,omitempty"`
	TypeID int         `json:"type_id"`
	Type   string      `json:"type"`
	Groups []ocsfGroup `json:"groups,omitempty"`
}

type ocsfGroup struct {
	Name string `json:"name"`
}

type ocsfSession struct {
	UID string `json:"uid"`
}

type ocsfAuthorization struct {
	Decision string      `json:"decision"`
	Policy   *ocsfPolicy `json:"policy,omitempty"`
}

type ocsfPolicy struct {
	Name string `json:"name"`
	Desc string `json:"desc,omitempty"`
}

type ocsfEndpoint struct {
	IP      string `json:"ip,omitempty"`
	Name    string `json:"name,omitempty"`
	SvcName string `json:"svc_name,omitempty"`
	UID     string `json:"uid,omitempty"`
}

type ocsfAPI struct {
	Operation string        `json:"operation"`
	Version   string        `json:"version,omitempty"`
	Service   *ocsfService  `json:"service,omitempty"`
	Request   *ocsfRequest  `json:"request,omitempty"`
	Response  *ocsfResponse `json:"response,omitempty"`
}

type ocsfService struct {
	Name string `json:"name"`
}

type ocsfRequest struct {
	UID  string         `json:"uid"`
	Data map[string]any `json:"data,omitempty"`
}

type ocsfResponse struct {
	Error   string         `json:"error,omitempty"`
	Message string         `json:"error_message,omitempty"`
	Data    map[string]any `json:"data,omitempty"`
}

type ocsfResource struct {
	UID  string `json:"uid"`
	Name string `json:"name"`
	Type string `json:"type"`
}

type ocsfEntity struct {
	UID     string `json:"uid,omitempty"`
	Name    string `json:"name,omitempty"`
	Type    string `json:"type"`
	Version string `json:"version,omitempty"`
}

func (e *ocsfEvent) class(uid int, name string, category int, categoryName string) {
	e.ClassUID, e.ClassName, e.CategoryUID, e.CategoryName = uid, name, category, categoryName
}

// activity says what was done; the class must be known.
func (e *ocsfEvent) activity(id int, name string) {
	e.ActivityID, e.ActivityName = id, name
	e.TypeUID, e.TypeName = e.ClassUID*100+id, e.ClassName+": "+name
}

func (e *ocsfEvent) severity(r Record) {
	switch {
	case r.GetKind() == auditv1.Kind_KIND_GAP:
		e.SeverityID, e.Severity = 4, "High"
	case r.denied():
		e.SeverityID, e.Severity = 3, "Medium"
	case r.failed():
		e.SeverityID, e.Severity = 2, "Low"
	default:
		e.SeverityID, e.Severity = 1, "Informational"
	}
}

func (e *ocsfEvent) status(r Record) {
	switch {
	case r.denied() || r.failed():
		e.StatusID, e.Status = 2, "Failure"
	case r.GetPhase() == auditv1.Phase_PHASE_AUTHORIZED:
		e.StatusID, e.Status = other, "authorized" // it is not known yet how it ends
	default:
		e.StatusID, e.Status = 1, "Success"
	}
}

func metadata(r Record) ocsfMetadata {
	m := ocsfMetadata{
		Version: ocsfVersion, Product: ocsfProduct{Name: "Sallyport", VendorName: "Sallyport"}, UID: r.ID(), Correlation: r.GetCallId(),
		EventCode: r.What(), LogName: "audit", LogProvider: r.GetProxy(), Sequence: r.Sequence, Profiles: []string{"cloud"},
	}
	if !r.Stored.IsZero() {
		m.LoggedTime = r.Stored.UnixMilli()
	}
	return m
}

// source is where the request came from. The framework wants one thing at least that tells it.
func source(r Record) ocsfEndpoint {
	e := ocsfEndpoint{SvcName: r.GetClient().GetName(), UID: r.GetClient().GetId()}
	if address, err := netip.ParseAddr(r.GetClient().GetAddress()); err == nil {
		e.IP = address.Unmap().WithZone("").String()
	}
	if e == (ocsfEndpoint{}) {
		e.Name = "unknown"
	}
	return e
}

func user(r Record) *ocsfUser {
	u := &ocsfUser{UID: r.GetPersonId(), Name: r.Person, Type: "Unknown"}
	if u.UID == "" {
		u.UID = r.GetActor().GetId()
	}
	switch r.GetActor().GetKind() {
	case auditv1.ActorKind_ACTOR_KIND_ADMIN:
		u.TypeID, u.Type = 2, "Admin"
	case auditv1.ActorKind_ACTOR_KIND_SYSTEM, auditv1.ActorKind_ACTOR_KIND_PROXY, auditv1.ActorKind_ACTOR_KIND_IDENTITY_PROVIDER:
		u.TypeID, u.Type = 3, "System"
	case auditv1.ActorKind_ACTOR_KIND_SERVICE_ACCOUNT:
		u.TypeID, u.Type = other, "Service account"
	default:
		if u.UID != "" {
			u.TypeID, u.Type = 1, "User"
		}
	}
	for _, group := range r.GetGroups()[:min(len(r.GetGroups()), maxGroups)] {
		u.Groups = append(u.Groups, ocsfGroup{Name: group})
	}
	return u
}

func actor(r Record) *ocsfActor {
	a := &ocsfActor{User: user(r), AppName: r.GetClient().GetName(), AppUID: r.GetClient().GetId()}
	if r.GetSession() != "" {
		a.Session = &ocsfSession{UID: r.GetSession()}
	}
	if v := verdict(r); v != "" {
		made := ocsfAuthorization{Decision: v}
		if name := rule(r); name != "" {
			made.Policy = &ocsfPolicy{Name: name, Desc: r.GetDecision().GetText()}
		}
		a.Authorizations = []ocsfAuthorization{made}
	}
	return a
}

func apiActivity(e *ocsfEvent, r Record) {
	e.API = &ocsfAPI{Operation: r.GetMethod(), Version: r.GetRevision()}
	if r.GetTool() != "" {
		e.API.Operation = r.GetTool()
		e.Resources = []ocsfResource{{UID: r.GetConnector() + "/" + r.GetTool(), Name: r.GetTool(), Type: "tool"}}
	} else if r.GetTarget() != "" {
		sort, _, _ := strings.Cut(r.GetTarget(), "/")
		e.Resources = []ocsfResource{{UID: r.GetTarget(), Name: r.GetTarget(), Type: sort}}
	}
	if e.API.Operation == "" {
		e.API.Operation = r.What()
	}
	if r.GetConnector() != "" {
		e.API.Service = &ocsfService{Name: r.GetConnector()}
		e.DstEndpoint = &ocsfEndpoint{SvcName: r.GetConnector()}
	}
	if r.GetCallId() != "" {
		e.API.Request = &ocsfRequest{UID: r.GetCallId(), Data: payload(r.GetArguments())}
	}
	if r.GetPhase() == auditv1.Phase_PHASE_COMPLETED {
		e.API.Response = &ocsfResponse{Data: payload(r.GetResult()), Message: r.GetError()}
		if r.failed() {
			e.API.Response.Error = outcome(r)
		}
	}
	switch method := r.GetMethod(); {
	case r.GetKind() == auditv1.Kind_KIND_LIST, r.GetKind() == auditv1.Kind_KIND_AUDIT_READ, r.GetKind() == auditv1.Kind_KIND_CREDENTIAL,
		strings.HasSuffix(method, "/list"), strings.HasSuffix(method, "/read"), strings.HasSuffix(method, "/get"):
		e.activity(2, "Read")
	default:
		e.activity(other, "Call")
	}
}

func authentication(e *ocsfEvent, r Record) {
	e.User = user(r)
	if e.User.Name == "" && e.User.UID == "" {
		e.User.Name = "unknown"
	}
	if r.GetSession() != "" {
		e.Session = &ocsfSession{UID: r.GetSession()}
	}
	if r.GetTarget() != "" {
		e.Service = &ocsfService{Name: r.GetTarget()}
	}
	if amr := r.GetAuthentication().GetAmr(); len(amr) > 0 {
		mfa := slices.Contains(amr, "mfa")
		e.MFA = &mfa
	}
	if r.GetKind() == auditv1.Kind_KIND_REVOCATION {
		e.activity(2, "Logoff")
	} else {
		e.activity(1, "Logon")
	}
}

func entity(r Record) *ocsfEntity {
	sort, id, found := strings.Cut(r.GetTarget(), "/")
	e := &ocsfEntity{UID: r.GetTarget(), Name: id, Type: sort}
	switch {
	case r.GetTarget() == "" && r.GetConnector() != "":
		e = &ocsfEntity{UID: "connector/" + r.GetConnector(), Name: r.GetConnector(), Type: "connector"}
	case r.GetTarget() == "":
		e = &ocsfEntity{UID: "proxy/" + r.GetProxy(), Name: r.GetProxy(), Type: "proxy"}
	case !found:
		e.Name = sort
	}
	return e
}

// changeActivity tells from an event's name, which ends in what was done, whether something was made, changed or taken away.
func changeActivity(r Record) (int, string) {
	if r.GetKind() != auditv1.Kind_KIND_CHANGE {
		return other, "Health"
	}
	last := r.GetAction()[strings.LastIndexByte(r.GetAction(), '_')+1:]
	switch last {
	case "created", "added", "provisioned", "registered", "issued", "invited":
		return 1, "Create"
	case "removed", "deleted", "revoked", "lifted", "erased", "expired":
		return 4, "Delete"
	}
	return 3, "Update"
}

// payload is a value of which a record keeps the head.
func payload(p *auditv1.Payload) map[string]any {
	if p == nil {
		return nil
	}
	return map[string]any{"head": string(p.GetHead()), "size": p.GetSize(), "sha256": hex.EncodeToString(p.GetSha256()), "truncated": p.GetTruncated(), "masked": p.GetMasked(), "redacted": p.GetRedacted()}
}

// unmapped is what the framework has no place for.
func unmapped(r Record) map[string]any {
	u := map[string]any{"kind": r.KindWord(), "phase": word(r.GetPhase(), "PHASE_")}
	add := func(key, value string) {
		if value != "" {
			u[key] = value
		}
	}
	add("method", r.GetMethod())
	add("action", r.GetAction())
	add("trace_id", r.GetTraceId())
	add("rule_set", r.GetDecision().GetRuleSet())
	add("budget", r.GetDecision().GetBudget())
	add("acr", r.GetAuthentication().GetAcr())
	for key, n := range map[string]uint64{"snapshot_version": r.GetSnapshotVersion(), "version": r.GetVersion(), "lost": r.GetLost(), "request_bytes": r.GetRequestBytes(), "response_bytes": r.GetResponseBytes()} {
		if n > 0 {
			u[key] = n
		}
	}
	if r.GetUpstreamDuration() != nil {
		u["upstream_duration"] = float64(r.GetUpstreamDuration().AsDuration()) / float64(time.Millisecond)
	}
	if len(r.GetAuthentication().GetAmr()) > 0 {
		u["amr"] = r.GetAuthentication().GetAmr()
	}
	if len(r.GetDetails()) > 0 {
		details := map[string]string{}
		for _, d := range r.GetDetails() {
			details[d.GetKey()] = d.GetValue()
		}
		u["details"] = details
	}
	if r.GetErased() {
		u["erased"] = true
	}
	return u
}
