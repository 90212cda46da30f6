package authserver

import "context"

// Tell tells at once what Run tells now and then.
func (u *Uses) Tell(ctx context.Context) { u.tell(ctx) }
