// Feishu's official Go SDK at work: client MODE URL PORT APP_ID SECRET KEY TOKEN
//
// MODE is "webhook" (listens on PORT) or "long-connection" (connects to URL). It prints one JSON
// line for each event that a handler got.
package main

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"os"
	"sync"

	larkcore "github.com/larksuite/oapi-sdk-go/v3/core"
	"github.com/larksuite/oapi-sdk-go/v3/core/httpserverext"
	larkevent "github.com/larksuite/oapi-sdk-go/v3/event"
	"github.com/larksuite/oapi-sdk-go/v3/event/dispatcher"
	larkhelpdesk "github.com/larksuite/oapi-sdk-go/v3/service/helpdesk/v1"
	larkws "github.com/larksuite/oapi-sdk-go/v3/ws"
)

var printing sync.Mutex

func say(fields map[string]any) {
	printing.Lock()
	defer printing.Unlock()
	line, _ := json.Marshal(fields)
	fmt.Println(string(line))
}

func got(header *larkevent.EventHeader) error {
	say(map[string]any{"event_id": header.EventID})
	return nil
}

// The typed handlers fit what the simulator sends, so they are used as Feishu's pages show them.
func handlers(token, key string) *dispatcher.EventDispatcher {
	return dispatcher.NewEventDispatcher(token, key).
		OnP2TicketCreatedV1(func(_ context.Context, e *larkhelpdesk.P2TicketCreatedV1) error {
			return got(e.EventV2Base.Header)
		}).
		OnP2TicketUpdatedV1(func(_ context.Context, e *larkhelpdesk.P2TicketUpdatedV1) error {
			return got(e.EventV2Base.Header)
		}).
		OnP2TicketMessageCreatedV1(func(_ context.Context, e *larkhelpdesk.P2TicketMessageCreatedV1) error {
			return got(e.EventV2Base.Header)
		}).
		OnP2NotificationApproveV1(func(_ context.Context, e *larkhelpdesk.P2NotificationApproveV1) error {
			return got(e.EventV2Base.Header)
		})
}

func main() {
	mode, url, port, app, secret, key, token := os.Args[1], os.Args[2], os.Args[3], os.Args[4], os.Args[5], os.Args[6], os.Args[7]
	if mode == "webhook" {
		http.HandleFunc("/webhook/event", httpserverext.NewEventHandlerFunc(handlers(token, key)))
		listener, err := net.Listen("tcp", "127.0.0.1:"+port)
		if err != nil {
			panic(err)
		}
		say(map[string]any{"ready": true})
		panic(http.Serve(listener, nil))
	}
	client := larkws.NewClient(app, secret,
		larkws.WithEventHandler(handlers("", "")),
		larkws.WithDomain(url),
		larkws.WithLogLevel(larkcore.LogLevelWarn),
	)
	if err := client.Start(context.Background()); err != nil {
		panic(err)
	}
}
