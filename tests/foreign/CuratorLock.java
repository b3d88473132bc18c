import java.io.BufferedReader;
import java.io.InputStreamReader;
import java.util.HashMap;
import java.util.Map;
import java.util.concurrent.ExecutorService;
import java.util.concurrent.Executors;
import java.util.concurrent.TimeUnit;
import org.apache.curator.framework.CuratorFramework;
import org.apache.curator.framework.CuratorFrameworkFactory;
import org.apache.curator.framework.recipes.locks.InterProcessMutex;
import org.apache.curator.retry.RetryForever;

/**
 * Contends for a lock through Curator, as it is told on standard input: {@code CuratorLock HOST:PORT
 * PATH}.
 *
 * <p>A line is a verb and the number of a contender; each contender has a mutex and a thread of its
 * own, and all share a session. Everything that happens is told on standard output:
 *
 * <pre>
 * acquire N      waits for the lock, in the background; `held N` once it is held
 * try N          `held N` or `busy N`
 * release N      `released N`
 * contenders 0   `contenders NAME NAME ...`, in order
 * </pre>
 */
public final class CuratorLock {
    public static void main(String[] args) throws Exception {
        CuratorFramework client =
                CuratorFrameworkFactory.newClient(args[0], 4_000, 10_000, new RetryForever(100));
        client.start();
        client.blockUntilConnected();
        Map<String, Contender> contenders = new HashMap<>();
        say("ready 0");
        BufferedReader input = new BufferedReader(new InputStreamReader(System.in));
        for (String line = input.readLine(); line != null; line = input.readLine()) {
            String[] words = line.split(" ");
            Contender contender =
                    contenders.computeIfAbsent(words[1], n -> new Contender(client, args[1], n));
            contender.thread.execute(() -> contender.obey(words[0]));
        }
        client.close();
        System.exit(0);
    }

    private static synchronized void say(String line) {
        System.out.println(line);
        System.out.flush();
    }

    /** The mutex belongs to the thread that acquired it. */
    private static final class Contender {
        final ExecutorService thread = Executors.newSingleThreadExecutor();
        private final InterProcessMutex mutex;
        private final String number;

        Contender(CuratorFramework client, String path, String number) {
            this.mutex = new InterProcessMutex(client, path);
            this.number = number;
        }

        void obey(String verb) {
            try {
                switch (verb) {
                    case "acquire":
                        mutex.acquire();
                        say("held " + number);
                        break;
                    case "try":
                        say((mutex.acquire(0, TimeUnit.SECONDS) ? "held " : "busy ") + number);
                        break;
                    case "release":
                        mutex.release();
                        say("released " + number);
                        break;
                    case "contenders":
                        say("contenders " + String.join(" ", mutex.getParticipantNodes()));
                        break;
                    default:
                        throw new IllegalArgumentException(verb);
                }
            } catch (Exception failure) {
                say("failed " + number + ": " + failure);
            }
        }
    }
}
