import java.io.BufferedReader;
import java.io.InputStreamReader;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.List;
import java.util.concurrent.atomic.AtomicReference;
import org.apache.curator.framework.CuratorFramework;
import org.apache.curator.framework.CuratorFrameworkFactory;
import org.apache.curator.framework.recipes.locks.InterProcessMutex;
import org.apache.curator.retry.RetryForever;

/**
 * Lets contenders, each with a session of its own, hand a lock to each other through Curator: {@code
 * CuratorHandover HOST:PORT,... PATH}.
 *
 * <p>The line {@code contend N MILLIS} on standard input is answered, after that time, by {@code
 * handed NANOS NANOS ...}: how long each hand-over took, from the call of one's release to the end of
 * the next one's acquire.
 */
public final class CuratorHandover {
    private static volatile long released;

    public static void main(String[] args) throws Exception {
        List<CuratorFramework> clients = new ArrayList<>();
        System.out.println("ready 0");
        BufferedReader input = new BufferedReader(new InputStreamReader(System.in));
        for (String line = input.readLine(); line != null; line = input.readLine()) {
            String[] words = line.split(" ");
            while (clients.size() < Integer.parseInt(words[1])) {
                clients.add(connect(args[0], clients.size()));
            }
            long[] gaps = contend(clients, args[1], Long.parseLong(words[2]) * 1_000_000);
            StringBuilder handed = new StringBuilder("handed");
            Arrays.stream(gaps).forEach(gap -> handed.append(' ').append(gap));
            System.out.println(handed);
        }
        System.exit(0);
    }

    /** Clients are spread evenly over the servers. */
    private static CuratorFramework connect(String servers, int n) throws Exception {
        String[] all = servers.split(",");
        CuratorFramework client = CuratorFrameworkFactory.newClient(
                all[n % all.length], 20_000, 10_000, new RetryForever(100));
        client.start();
        client.blockUntilConnected();
        return client;
    }

    private static long[] contend(List<CuratorFramework> clients, String path, long time)
            throws Exception {
        List<Long> gaps = new ArrayList<>();
        AtomicReference<Exception> failure = new AtomicReference<>();
        List<Thread> threads = new ArrayList<>();
        released = 0;
        long end = System.nanoTime() + time;
        for (CuratorFramework client : clients) {
            Thread thread = new Thread(() -> {
                InterProcessMutex mutex = new InterProcessMutex(client, path);
                try {
                    while (System.nanoTime() < end) {
                        mutex.acquire();
                        long now = System.nanoTime();
                        if (released != 0) {
                            gaps.add(now - released);
                        }
                        released = System.nanoTime();
                        mutex.release();
                    }
                } catch (Exception exception) {
                    failure.set(exception);
                }
            });
            thread.start();
            threads.add(thread);
        }
        for (Thread thread : threads) {
            thread.join();
        }
        if (failure.get() != null) {
            throw failure.get();
        }
        return gaps.stream().mapToLong(Long::longValue).toArray();
    }
}
