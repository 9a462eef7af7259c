// Asks a server (python -m trainer.serve) about a photo, as TensorFlow Serving's clients do; Java 17, without packages.
//
//     java Client.java http://127.0.0.1:8501 photo.jpg

import java.net.URI;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpResponse;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.Base64;

public class Client {
    public static void main(String[] arguments) throws Exception {
        byte[] photo = Files.readAllBytes(Path.of(arguments[1]));
        String body = "{\"instances\": [{\"b64\": \"" + Base64.getEncoder().encodeToString(photo) + "\"}]}";
        HttpRequest request = HttpRequest.newBuilder(URI.create(arguments[0] + "/v1/models/model:predict"))
                .header("Content-Type", "application/json")
                .POST(HttpRequest.BodyPublishers.ofString(body))
                .build();
        HttpResponse<String> response = HttpClient.newBuilder().version(HttpClient.Version.HTTP_1_1).build()
                .send(request, HttpResponse.BodyHandlers.ofString());
        System.out.println(response.body()); // {"predictions": [{"label": …, "class_index": …, "probabilities": […]}]}
        if (response.statusCode() != 200) {
            System.exit(1); // 400: no photo; 503: busy, try again
        }
    }
}
