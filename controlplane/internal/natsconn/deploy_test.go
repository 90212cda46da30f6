package natsconn

import (
	"testing"

	"github.com/nats-io/nats-server/v2/server"
)

// TestTheClusterThatIsDeployedTakesWhatTheEmbeddedServerTakes reads the configuration that operators begin with.
func TestTheClusterThatIsDeployedTakesWhatTheEmbeddedServerTakes(t *testing.T) {
	for _, name := range []string{"NATS_NAME", "NATS_SALLYPORT_PASSWORD", "NATS_READER_PASSWORD", "NATS_ROUTE_PASSWORD", "NATS_SYS_PASSWORD"} {
		t.Setenv(name, "secret")
	}
	t.Setenv("NATS_STORE", t.TempDir())
	t.Setenv("NATS_ROUTES", `["nats://route:secret@n1.example:6222"]`)
	o, err := server.ProcessConfigFile("../../../deploy/nats/nats.conf")
	if err != nil {
		t.Fatal(err)
	}
	if !o.SyncAlways || o.JetStreamLimits.MaxBatchSize != maxBatch || o.MaxPayload < 8<<20 {
		t.Errorf("it syncs always: %v, takes batches of %d, messages of %d bytes", o.SyncAlways, o.JetStreamLimits.MaxBatchSize, o.MaxPayload)
	}
}
