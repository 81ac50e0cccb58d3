import com.lark.oapi.core.request.EventReq;
import com.lark.oapi.core.response.EventResp;
import com.lark.oapi.event.EventDispatcher;
import com.lark.oapi.service.helpdesk.HelpdeskService;
import com.lark.oapi.service.helpdesk.v1.model.P2NotificationApproveV1;
import com.lark.oapi.service.helpdesk.v1.model.P2TicketCreatedV1;
import com.lark.oapi.service.helpdesk.v1.model.P2TicketMessageCreatedV1;
import com.lark.oapi.service.helpdesk.v1.model.P2TicketUpdatedV1;
import com.sun.net.httpserver.HttpExchange;
import com.sun.net.httpserver.HttpServer;
import java.io.IOException;
import java.net.InetSocketAddress;
import java.util.concurrent.Executors;

/**
 * Feishu's official Java SDK at work: MODE URL PORT APP_ID SECRET KEY TOKEN.
 *
 * <p>MODE is {@code webhook} (listens on PORT) or {@code long-connection} (connects to URL). Prints
 * one JSON line for each event that a handler got.
 */
public final class Client {
    private Client() {}

    private static void got(String eventId) {
        System.out.println("{\"event_id\":\"" + eventId + "\"}");
    }

    private static EventDispatcher dispatcher(String token, String key) {
        return EventDispatcher.newBuilder(token, key)
            .onP2TicketCreatedV1(new HelpdeskService.P2TicketCreatedV1Handler() {
                @Override
                public void handle(P2TicketCreatedV1 event) {
                    got(event.getHeader().getEventId());
                }
            })
            .onP2TicketUpdatedV1(new HelpdeskService.P2TicketUpdatedV1Handler() {
                @Override
                public void handle(P2TicketUpdatedV1 event) {
                    got(event.getHeader().getEventId());
                }
            })
            .onP2TicketMessageCreatedV1(new HelpdeskService.P2TicketMessageCreatedV1Handler() {
                @Override
                public void handle(P2TicketMessageCreatedV1 event) {
                    got(event.getHeader().getEventId());
                }
            })
            .onP2NotificationApproveV1(new HelpdeskService.P2NotificationApproveV1Handler() {
                @Override
                public void handle(P2NotificationApproveV1 event) {
                    got(event.getHeader().getEventId());
                }
            })
            .build();
    }

    private static void answer(EventDispatcher dispatcher, HttpExchange exchange) throws IOException {
        EventReq request = new EventReq();
        request.setHeaders(exchange.getRequestHeaders());
        request.setBody(exchange.getRequestBody().readAllBytes());
        request.setHttpPath(exchange.getRequestURI().getPath());
        try {
            EventResp response = dispatcher.handle(request);
            byte[] body = response.getBody() == null ? new byte[0] : response.getBody();
            exchange.sendResponseHeaders(response.getStatusCode(), body.length == 0 ? -1 : body.length);
            exchange.getResponseBody().write(body);
        } catch (Throwable fault) {
            fault.printStackTrace();
            exchange.sendResponseHeaders(500, -1);
        } finally {
            exchange.close();
        }
    }

    public static void main(String[] args) throws Exception {
        String mode = args[0], url = args[1], app = args[3], secret = args[4], key = args[5], token = args[6];
        if (mode.equals("webhook")) {
            EventDispatcher dispatcher = dispatcher(token, key);
            int port = Integer.parseInt(args[2]);
            HttpServer server = HttpServer.create(new InetSocketAddress("127.0.0.1", port), 0);
            server.createContext("/webhook/event", exchange -> answer(dispatcher, exchange));
            server.setExecutor(Executors.newCachedThreadPool());
            server.start();
            System.out.println("{\"ready\":true}");
            return;
        }
        new com.lark.oapi.ws.Client.Builder(app, secret)
            .eventHandler(dispatcher("", ""))
            .domain(url)
            .build()
            .start();
    }
}
