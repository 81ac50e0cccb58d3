module relay/tests/sdk

go 1.18

require github.com/larksuite/oapi-sdk-go/v3 v3.11.0

require (
	github.com/gogo/protobuf v1.3.2 // indirect
	github.com/gorilla/websocket v1.5.0 // indirect
)
