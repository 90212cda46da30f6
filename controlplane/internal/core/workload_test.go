package core

import (
	"bytes"
	"slices"
	"testing"

	eventv1 "sallyport.dev/proto/gen/sallyport/event/v1"
)

func TestAWorkloadJoinsAsWhatTheRulesNameItAndStaysOutOnceRevoked(t *testing.T) {
	w := newWorld(t)
	const id, other = "spiffe://example.org/us-east/us-east-1", "spiffe://example.org/us-east/us-east-2"
	admit := func(spiffeID, name, region string) AdmitProxy {
		return AdmitProxy{ID: w.env().NewID(), SPIFFEID: spiffeID, Name: name, Region: region}
	}
	first := admit(id, "us-east-1", "us-east")
	w.must(first)
	if token := w.state.WorkloadToken(id); token.ID != first.ID || !token.IsProxy() || w.state.ProxyToken("us-east-1") != token {
		t.Fatalf("it joined as %+v", token)
	}
	seq := w.state.Seq()
	if w.must(admit(id, "us-east-1", "us-east")); w.state.Seq() != seq {
		t.Error("who is of the fleet joined again")
	}
	for _, refused := range map[string]struct {
		c    Command
		want Code
	}{
		"another's name":                {admit(other, "us-east-1", "us-east"), AlreadyExists},
		"under another name":            {admit(id, "us-east-9", "us-east"), FailedPrecondition},
		"in another region":             {admit(id, "us-east-1", "eu-west"), FailedPrecondition},
		"a name that is none":           {admit(other, "US_East", "us-east"), InvalidArgument},
		"a region that is none":         {admit(other, "us-east-2", "us east"), InvalidArgument},
		"without an id":                 {admit("", "us-east-2", "us-east"), InvalidArgument},
		"by another's token id":         {AdmitProxy{ID: first.ID, SPIFFEID: other, Name: "us-east-2", Region: "us-east"}, AlreadyExists},
		"by an invitation that is none": {JoinProxy{ID: first.ID, KeySHA256: make([]byte, 32)}, NotFound},
		"readmitted, not being barred":  {ReadmitProxy{SPIFFEID: id}, NotFound},
		"invited under its name":        {IssueToken{ID: w.env().NewID(), Kind: eventv1.TokenKind_TOKEN_KIND_PROXY, SHA256: make([]byte, 32), Name: "us-east-1", Region: "us-east"}, AlreadyExists},
	} {
		w.refused(refused.c, refused.want)
	}

	w.must(RevokeToken{ID: first.ID})
	if w.state.SealingEpoch("us-east") != w.state.Seq() {
		t.Error("the region's sealing keys are those that the revoked proxy knows")
	}
	w.refused(admit(id, "us-east-1", "us-east"), Forbidden)
	w.refused(admit(id, "us-east-3", "us-east"), Forbidden) // whatever the rules name it
	var kept bytes.Buffer
	if err := w.state.Encode(&kept); err != nil {
		t.Fatal(err)
	}
	again, err := DecodeState(&kept)
	if barred := slices.Collect(w.state.AllBarred()); err != nil || len(barred) != 1 || barred[0].Name != "us-east-1" || !slices.Equal(slices.Collect(again.AllBarred()), barred) {
		t.Errorf("a checkpoint holds %v, want %v: %v", slices.Collect(again.AllBarred()), barred, err)
	}
	w.must(admit(other, "us-east-1", "us-east")) // the name is free
	w.must(ReadmitProxy{SPIFFEID: id})
	w.refused(admit(id, "us-east-1", "us-east"), AlreadyExists)
	w.must(admit(id, "us-east-4", "us-east"))
}
