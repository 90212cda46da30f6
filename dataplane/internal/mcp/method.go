package mcp

// The protocol's methods, of all revisions.
const (
	MethodInitialize            = "initialize"
	MethodDiscover              = "server/discover"
	MethodPing                  = "ping"
	MethodListTools             = "tools/list"
	MethodCallTool              = "tools/call"
	MethodListResources         = "resources/list"
	MethodListResourceTemplates = "resources/templates/list"
	MethodReadResource          = "resources/read"
	MethodSubscribe             = "resources/subscribe"
	MethodUnsubscribe           = "resources/unsubscribe"
	MethodListPrompts           = "prompts/list"
	MethodGetPrompt             = "prompts/get"
	MethodComplete              = "completion/complete"
	MethodSetLevel              = "logging/setLevel"
	MethodListen                = "subscriptions/listen"
	MethodCreateMessage         = "sampling/createMessage"
	MethodElicit                = "elicitation/create"
	MethodListRoots             = "roots/list"
	MethodGetTask               = "tasks/get"
	MethodTaskResult            = "tasks/result"
	MethodUpdateTask            = "tasks/update"
	MethodCancelTask            = "tasks/cancel"

	NotifyInitialized           = "notifications/initialized"
	NotifyCancelled             = "notifications/cancelled"
	NotifyProgress              = "notifications/progress"
	NotifyMessage               = "notifications/message"
	NotifyToolsChanged          = "notifications/tools/list_changed"
	NotifyPromptsChanged        = "notifications/prompts/list_changed"
	NotifyResourcesChanged      = "notifications/resources/list_changed"
	NotifyResourceUpdated       = "notifications/resources/updated"
	NotifyRootsChanged          = "notifications/roots/list_changed"
	NotifySubscriptionsAccepted = "notifications/subscriptions/acknowledged"
	NotifyTask                  = "notifications/tasks"
	NotifyTaskStatus            = "notifications/tasks/status"
)

// What a completion is about.
const (
	RefPrompt   = "ref/prompt"
	RefResource = "ref/resource"
)

// interned are the methods that need no new string when they are read.
var interned = func() map[string]string {
	m := map[string]string{}
	for _, s := range []string{
		MethodInitialize, MethodDiscover, MethodPing, MethodListTools, MethodCallTool, MethodListResources,
		MethodListResourceTemplates, MethodReadResource, MethodSubscribe, MethodUnsubscribe, MethodListPrompts, MethodGetPrompt,
		MethodComplete, MethodSetLevel, MethodListen, MethodCreateMessage, MethodElicit, MethodListRoots,
		MethodGetTask, MethodTaskResult, MethodUpdateTask, MethodCancelTask, NotifyTask, NotifyTaskStatus,
		NotifyInitialized, NotifyCancelled, NotifyProgress, NotifyMessage, NotifyToolsChanged, NotifyPromptsChanged,
		NotifyResourcesChanged, NotifyResourceUpdated, NotifyRootsChanged, NotifySubscriptionsAccepted,
	} {
		m[s] = s
	}
	return m
}()

// naming says which member of params names what a method acts on.
func naming(method string) string {
	switch method {
	case MethodCallTool, MethodGetPrompt:
		return "name"
	case MethodReadResource, MethodSubscribe, MethodUnsubscribe:
		return "uri"
	case MethodComplete:
		return "ref"
	case MethodGetTask, MethodTaskResult, MethodUpdateTask, MethodCancelTask:
		return "taskId"
	}
	return ""
}

// Mirrored tells whether the stateless era mirrors the name that a method acts on in the Mcp-Name header.
func Mirrored(method string) bool {
	switch method {
	case MethodCallTool, MethodGetPrompt, MethodReadResource, MethodGetTask, MethodUpdateTask, MethodCancelTask:
		return true
	}
	return false
}

// gone tells whether the stateless era has a method no more, whatever its params.
func gone(method string) bool {
	switch method {
	case MethodInitialize, MethodPing, MethodSubscribe, MethodUnsubscribe, MethodSetLevel, MethodTaskResult:
		return true
	}
	return false
}
