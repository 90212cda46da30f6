package policy

import (
	"bytes"
	"encoding/json"
	"io"
	"testing"
)

func TestEachFigureIsPrintedWithItsReference(t *testing.T) {
	var out bytes.Buffer
	if err := Run(t.Context(), &out, io.Discard, Figures, 0.002); err != nil {
		t.Fatal(err)
	}
	for dec, want := json.NewDecoder(&out), []string{"policy_plan_1m", "policy_who_can_1m", "policy_backtest", "policy_backtest_stream"}; len(want) > 0; want = want[1:] {
		var f figure
		if err := dec.Decode(&f); err != nil || f.Name != want[0] || f.Value <= 0 || f.Reference <= 0 || f.Ratio <= 0 || f.Unit == "" || f.Load == "" {
			t.Errorf("%+v (%v), want %s", f, err, want[0])
		}
	}
}
