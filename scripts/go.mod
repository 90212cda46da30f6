module sallyport.dev/scripts

go 1.26.0

require (
	sallyport.dev/dataplane v0.0.0
	sallyport.dev/proto v0.0.0
)

require (
	connectrpc.com/connect v1.21.1 // indirect
	github.com/coreos/go-oidc/v3 v3.21.0 // indirect
	github.com/klauspost/compress v1.20.0 // indirect
	github.com/modelcontextprotocol/go-sdk v1.8.0 // indirect
	github.com/nats-io/nats.go v1.55.0 // indirect
	github.com/nats-io/nkeys v0.4.16 // indirect
	github.com/nats-io/nuid v1.0.1 // indirect
	github.com/zitadel/oidc/v3 v3.51.17 // indirect
	golang.org/x/crypto v0.57.0 // indirect
	golang.org/x/oauth2 v0.37.0 // indirect
	golang.org/x/sys v0.48.0 // indirect
	google.golang.org/protobuf v1.36.12 // indirect
)

replace (
	sallyport.dev/dataplane => ../dataplane
	sallyport.dev/proto => ../proto
)
