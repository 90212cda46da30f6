package bench

import (
	"context"
	"errors"
	"fmt"
	"time"

	"connectrpc.com/connect"
	adminv1 "sallyport.dev/proto/gen/sallyport/admin/v1"
	"sallyport.dev/proto/gen/sallyport/admin/v1/adminv1connect"
	policyv1 "sallyport.dev/proto/gen/sallyport/policy/v1"

	"sallyport.dev/scripts/demo/quickstart"
)

// measureEnforce prints policy_enforce_p99: from when a policy is sent that takes a tool away to when the last of two proxies refuses it to an
// agent that calls at each all the time.
func measureEnforce(ctx context.Context, l *lab) error {
	const person = "enforced@bench.example"
	if _, err := l.hire(ctx, []string{person}); err != nil {
		return err
	}
	token, err := l.installation.SignIn(ctx, person)
	if err != nil {
		return err
	}
	url, client := l.installation.AdminURL()
	admin := adminv1connect.NewPolicyServiceClient(client, url)
	apply := func(rule *policyv1.Rule) (time.Duration, error) {
		began := time.Now()
		_, err := admin.Apply(ctx, connect.NewRequest(&adminv1.ApplyRequest{Grants: []*adminv1.Grant{{
			Group: "okta/" + group, Connector: loaded, Rules: []*policyv1.Rule{{Allow: []string{toolName}}, rule},
		}}}))
		if err != nil {
			return 0, fmt.Errorf("apply a policy: %w", err)
		}
		return time.Since(began), nil
	}
	allow, deny := &policyv1.Rule{Deny: []string{"delete_*"}}, &policyv1.Rule{Deny: []string{toolName}}
	l.say("a policy that takes a tool away is applied %d times", l.Changes)
	var lags, answers []time.Duration
	for range l.Changes {
		if _, err := apply(allow); err != nil {
			return err
		}
		if err := l.allowed(ctx, token); err != nil {
			return err
		}
		polls, err := l.poll(ctx, token)
		if err != nil {
			return err
		}
		began := time.Now()
		answered, err := apply(deny)
		if err == nil {
			var last time.Time
			bounded, cancel := context.WithTimeout(ctx, patience)
			last, err = polls.last(bounded)
			cancel()
			lags, answers = append(lags, last.Sub(began)), append(answers, answered)
		}
		polls.stop()
		if err != nil {
			return err
		}
	}
	f := Figure{
		Name: "policy_enforce_p99", Value: milliseconds(quantile(lags, 0.99)), Unit: "ms", Reference: milliseconds(quantile(answers, 0.99)),
		Load: fmt.Sprintf("%d changes of one grant, from when it is sent to the last of 2 proxy processes refusing, each called in a loop by one agent, so that the time of a call is part of it; "+
			"p50 %.1f ms; reference: the same quantile of the time until apply answers, which is once the change is durable", l.Changes, milliseconds(median(lags))),
	}
	f.Ratio = f.Value / f.Reference
	return l.print(f)
}

// allowed waits until a call is answered at each proxy.
func (l *lab) allowed(ctx context.Context, token string) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	for _, region := range []string{quickstart.USEast, quickstart.EUWest} {
		c, err := newCaller(l.installation.MCPURL(region)+"/"+loaded, token, 0)
		if err != nil {
			return err
		}
		for err = errRefused; errors.Is(err, errRefused) && ctx.Err() == nil; {
			err = c.call(ctx)
		}
		c.close()
		if err != nil {
			return fmt.Errorf("wait for %s to allow a call: %w", region, err)
		}
	}
	return nil
}
