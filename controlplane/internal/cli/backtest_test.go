package cli

import (
	"bytes"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"
	adminv1 "sallyport.dev/proto/gen/sallyport/admin/v1"
)

func TestABacktestIsShownWithWhatItDoesNotKnow(t *testing.T) {
	const (
		allowed = adminv1.BacktestVerdict_BACKTEST_VERDICT_ALLOWED
		denied  = adminv1.BacktestVerdict_BACKTEST_VERDICT_DENIED
		asked   = adminv1.BacktestVerdict_BACKTEST_VERDICT_ASKED
	)
	at := timestamppb.New(time.Date(2027, 1, 31, 18, 0, 0, 0, time.UTC))
	many := &adminv1.BacktestPolicyResponse{
		Version: 7, Calls: 30, Unchanged: 20, Changed: 7, GroupsOfNow: 4, NotByRules: 5, Until: at,
		Unknown: []*adminv1.BacktestUnknown{{Obstacle: adminv1.BacktestObstacle_BACKTEST_OBSTACLE_ARGUMENTS, Calls: 2}, {Obstacle: adminv1.BacktestObstacle_BACKTEST_OBSTACLE_PERSON, Calls: 1}},
		Changes: []*adminv1.BacktestChange{
			{UserId: "1", UserName: "okta/ada", Connector: "github", Tool: "push_files", Before: allowed, After: denied, Calls: 6, CallId: "c1", At: at},
			{UserId: "2", Connector: "github", Tool: "delete_branch", Before: denied, After: asked, Calls: 1, CallId: "c2", At: at},
		},
	}
	for name, c := range map[string]struct {
		res   *adminv1.BacktestPolicyResponse
		wants []string
		not   []string
	}{
		"with changes": {many, []string{
			"at version 7: of 30 calls 20 come out as they did, 7 otherwise, and 3 are unknown (2 for arguments, 1 for person)",
			"groups are those that counted at each call (of 4 calls those of now: a group is not there by its name), other attributes of people those of now",
			"5 refusals on which rules had no say are left out",
			"calls after " + when(at) + " were not looked at: raise --limit",
			"PERSON TOOL BEFORE AFTER CALLS LAST CALL",
			"okta/ada github push_files allowed denied 6 " + when(at) + " c1",
			"2 github delete_branch denied asked 1 " + when(at) + " c2",
		}, nil},
		"without any": {&adminv1.BacktestPolicyResponse{Version: 8, Calls: 3, Unchanged: 3}, []string{
			"at version 8: of 3 calls 3 come out as they did, 0 otherwise, and 0 are unknown",
		}, []string{"raise --limit", "left out", "those of now: a group"}},
	} {
		t.Run(name, func(t *testing.T) {
			var out bytes.Buffer
			if err := backtestTable(c.res).write(&out); err != nil {
				t.Fatal(err)
			}
			rows := strings.Split(out.String(), "\n")
			for i, row := range rows {
				rows[i] = strings.Join(strings.Fields(row), " ")
			}
			for _, want := range c.wants {
				if !slices.Contains(rows, strings.Join(strings.Fields(want), " ")) {
					t.Errorf("no row is %q:\n%s", want, out.String())
				}
			}
			for _, not := range c.not {
				if strings.Contains(out.String(), not) {
					t.Errorf("it says %q:\n%s", not, out.String())
				}
			}
		})
	}
}
