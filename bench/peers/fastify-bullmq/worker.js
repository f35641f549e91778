// The BullMQ worker and its one job.
const { Worker } = require("bullmq");
const { Redis } = require("ioredis");
const database = require("./database");

async function predict({ data }) {
    await database.query({
        name: "complete",
        text: "UPDATE jobs SET status = 'succeeded', output = $2, completed_at = now() WHERE id = $1",
        values: [data.id, JSON.stringify(data.input)],
    });
}

const worker = new Worker("predictions", predict, {
    // A worker waits for Redis however long it is away; BullMQ insists that this be said.
    connection: new Redis(process.env.REDIS_URL, { maxRetriesPerRequest: null, enableAutoPipelining: true }),
    concurrency: 64,
    removeOnComplete: { count: 0 },
    autorun: false,
});
worker.on("error", console.error);

async function work() {
    await database.connect();
    await worker.waitUntilReady();
    console.log("up");
    await worker.run();
}

work();

process.on("SIGTERM", async () => {
    await worker.close();
    process.exit(0);
});
