// Package upstream is the gateway's side towards MCP servers: it carries a call that was already decided, and nothing else.
//
// A Pool holds one Upstream per connector: its connections, which revision of the protocol it speaks (asked once), and in the
// session era its sessions, which are opened when first needed and opened again when the server has lost them. Call sends one
// message and returns as soon as the answer begins; the answer is then read as one JSON message or as a stream of events. A
// message is forwarded as it came where both sides speak one revision; where they do not, _meta, headers and id are all
// that changes, and the answer comes back under the agent's own id.
//
//	response, err := pool.Upstream(target).Call(ctx, upstream.Call{Message: m, Revision: revision, Credential: credential})
//	if err != nil { … *upstream.Error, or what ended ctx … }
//	defer response.Close()
//	if response.Stream {
//		for { event, err := response.Next(); … } // until io.EOF
//	} else {
//		io.Copy(w, response)
//	}
//
// Ending ctx, or Close before the end, cancels the call at the server. No redirect is followed, no error text holds an
// address, a credential or bytes of an answer, and no call is sent twice unless the server said that it did not take it.
package upstream
