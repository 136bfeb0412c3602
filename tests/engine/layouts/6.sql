BEGIN TRANSACTION;
CREATE TABLE epochs (
        run INTEGER NOT NULL REFERENCES runs ON DELETE CASCADE,
        epoch INTEGER NOT NULL,
        train_loss REAL NOT NULL,
        train_accuracy REAL NOT NULL,
        train_s REAL NOT NULL,
        images_per_s REAL NOT NULL,
        PRIMARY KEY (run, epoch)
    );
INSERT INTO "epochs" VALUES(1,1,1.09090909090909082834e+00,5.90909090909090939369e-01,1.2,1200.0);
INSERT INTO "epochs" VALUES(1,2,7.0588235294117640528e-01,7.35294117647058875775e-01,1.2,1200.0);
CREATE TABLE evaluations (
        run INTEGER NOT NULL REFERENCES runs ON DELETE CASCADE,
        split TEXT NOT NULL,
        moment TEXT NOT NULL,
        epoch INTEGER NOT NULL,
        step INTEGER NOT NULL,
        metrics TEXT NOT NULL,
        per_class TEXT NOT NULL,
        confusion TEXT NOT NULL,
        elapsed_s REAL NOT NULL,
        labels BLOB,                            -- kept for the untrained and the latest evaluation of a split
        predictions BLOB,
        confidences BLOB,
        PRIMARY KEY (run, split, moment, epoch)
    );
INSERT INTO "evaluations" VALUES(1,'test','untrained',0,0,'{"accuracy":0.1135,"balanced_accuracy":0.1125,"precision":0.1115,"recall":0.1125,"f1":0.1105,"loss":2.03895}','[{"precision":0.1135,"recall":0.1135,"f1":0.1135,"support":180},{"precision":0.1135,"recall":0.1135,"f1":0.1135,"support":180}]','[[20,160],[160,20]]',0.1,X'00000100',X'00000100',X'0000003F0000003F');
INSERT INTO "evaluations" VALUES(1,'test','epoch',1,12,'{"accuracy":0.55,"balanced_accuracy":0.549,"precision":0.548,"recall":0.549,"f1":0.547,"loss":1.035}','[{"precision":0.55,"recall":0.55,"f1":0.55,"support":180},{"precision":0.55,"recall":0.55,"f1":0.55,"support":180}]','[[99,81],[81,99]]',0.1,NULL,NULL,NULL);
INSERT INTO "evaluations" VALUES(1,'test','final',2,24,'{"accuracy":0.7,"balanced_accuracy":0.699,"precision":0.698,"recall":0.699,"f1":0.697,"loss":0.6900000000000001}','[{"precision":0.7,"recall":0.7,"f1":0.7,"support":180},{"precision":0.7,"recall":0.7,"f1":0.7,"support":180}]','[[126,54],[54,126]]',0.1,X'00000100',X'00000100',X'0000003F0000003F');
CREATE TABLE memory (
        run INTEGER PRIMARY KEY REFERENCES runs ON DELETE CASCADE,
        forecast TEXT NOT NULL,                 -- MemoryForecasted as JSON
        device_name TEXT NOT NULL,
        peak_bytes INTEGER,                     -- measured
        context_bytes INTEGER
    );
CREATE TABLE queue (
        number INTEGER PRIMARY KEY AUTOINCREMENT,
        place REAL NOT NULL,                    -- the order
        spec TEXT NOT NULL
    );
INSERT INTO "queue" VALUES(1,1.0,'{"backbone_rate":1.0,"batch_size":128,"checkpoint_every":60.0,"compile":false,"crop_padding":0,"dataset":"digits","deterministic":false,"device":"auto","dtype":"auto","epochs":2,"flip":false,"freeze":"none","label_smoothing":0.0,"learning_rate":0.01,"model":"resnet20","momentum":0.9,"nesterov":false,"norm":"batch","on_oom":"micro-batch","optimizer":"sgd","schedule":"constant","seed":0,"split_seed":0,"stem":"imagenet","test_share":0.2,"val_share":0.0,"warmup_epochs":0.0,"weight_decay":0.0,"weights":"random"}');
CREATE TABLE recoveries (
        run INTEGER NOT NULL REFERENCES runs ON DELETE CASCADE,
        step INTEGER NOT NULL,
        action TEXT NOT NULL,
        micro_batch INTEGER,
        recomputing INTEGER NOT NULL,
        freed_bytes INTEGER NOT NULL
    );
CREATE TABLE resumes (
        run INTEGER NOT NULL REFERENCES runs ON DELETE CASCADE,
        step INTEGER NOT NULL,
        resumed_at REAL NOT NULL,               -- seconds since 1970
        differs TEXT NOT NULL                   -- JSON: what was not as before, in words
    );
INSERT INTO "resumes" VALUES(1,12,1764000010.0,'[]');
CREATE TABLE runs (
        run INTEGER PRIMARY KEY AUTOINCREMENT,  -- a number is never given twice, even after a deletion
        dataset TEXT NOT NULL,
        model TEXT NOT NULL,
        spec TEXT NOT NULL,
        status TEXT NOT NULL,                   -- running, completed, stopped, diverged, failed
        created_at REAL NOT NULL,               -- seconds since 1970
        pid INTEGER NOT NULL,
        pid_started REAL NOT NULL,
        started TEXT,                           -- RunStarted as JSON
        untrained TEXT,                         -- Metrics as JSON
        final TEXT,
        elapsed_s REAL,
        train_images_per_s REAL,
        steps INTEGER,
        error TEXT,
        seal TEXT                               -- SHA-256 of this run's rows, once it has ended
    , place TEXT NOT NULL DEFAULT '', beat_at REAL NOT NULL DEFAULT 0);
INSERT INTO "runs" VALUES(1,'digits','resnet20','{"backbone_rate":1.0,"batch_size":128,"checkpoint_every":60.0,"compile":false,"crop_padding":0,"dataset":"digits","deterministic":false,"device":"auto","dtype":"auto","epochs":2,"flip":false,"freeze":"none","label_smoothing":0.0,"learning_rate":0.01,"model":"resnet20","momentum":0.9,"nesterov":false,"norm":"batch","on_oom":"micro-batch","optimizer":"sgd","schedule":"constant","seed":0,"split_seed":0,"stem":"imagenet","test_share":0.2,"val_share":0.0,"warmup_epochs":0.0,"weight_decay":0.0,"weights":"random"}','completed',1764000000.0,1234,1763999990.0,'{"run":1,"spec":{"dataset":"digits","model":"resnet20","epochs":2,"batch_size":128,"learning_rate":0.01,"optimizer":"sgd","momentum":0.9,"nesterov":false,"weight_decay":0.0,"schedule":"constant","warmup_epochs":0.0,"label_smoothing":0.0,"flip":false,"crop_padding":0,"val_share":0.0,"test_share":0.2,"split_seed":0,"stem":"imagenet","weights":"random","freeze":"none","backbone_rate":1.0,"norm":"batch","seed":0,"device":"auto","dtype":"auto","on_oom":"micro-batch","compile":false,"checkpoint_every":60.0,"deterministic":false},"resolved":{"device":"cpu","device_name":"a processor, 2 cores","device_reason":"no GPU","dtype":"float32","num_threads":2,"memory_format":"contiguous_format","stem":"imagenet","images":"resident","versions":{},"gain":1.0},"num_train":1437,"num_val":0,"num_test":360,"num_unusable":0,"image_shape":[1,8,8],"class_names":["cat","dog"],"mean":[0.3],"std":[0.4],"test_sha256":"0000000000000000000000000000000000000000000000000000000000000000","num_parameters":11175370,"changes":["conv1 3\u21921 channels","fc 1000\u219210 classes"],"num_steps":24}','{"accuracy":0.1135,"balanced_accuracy":0.1125,"precision":0.1115,"recall":0.1125,"f1":0.1105,"loss":2.03895}','{"accuracy":0.7,"balanced_accuracy":0.699,"precision":0.698,"recall":0.699,"f1":0.697,"loss":0.6900000000000001}',13.1,1234.0,24,NULL,'7fcdcc7eedca62d62f49bea6c6be6c225906e85d1183b4eb1eae8d9a9518c34e','',0.0);
CREATE TABLE steps (
        run INTEGER NOT NULL REFERENCES runs ON DELETE CASCADE,
        first_step INTEGER NOT NULL,
        epoch INTEGER NOT NULL,
        learning_rate REAL NOT NULL,
        images INTEGER NOT NULL,
        train_s REAL NOT NULL,
        losses BLOB NOT NULL,                   -- little-endian float64, one a step
        accuracies BLOB NOT NULL,
        PRIMARY KEY (run, first_step)
    );
INSERT INTO "steps" VALUES(1,1,1,0.01,768,6.00000000000000088817e-01,X'74D145175D74014000000000000000409DD8899DD889FD3FDCB66DDBB66DFB3F999999999999F93FFFFFFFFFFFFFF73F',X'48175D74D145C73F000000000000D03F143BB1133BB1D33FB66DDBB66DDBD63F9A9999999999D93F000000000000DC3F');
INSERT INTO "steps" VALUES(1,7,1,0.01,1536,1.20000000000000017763e+00,X'969696969696F63F555555555555F53F5E43790DE535F43F333333333333F33F922449922449F23F74D145175D74F13F',X'1E1E1E1E1E1EDE3F000000000000E03F790DE53594D7E03F9A9999999999E13F922449922449E23FE9A28B2EBAE8E23F');
INSERT INTO "steps" VALUES(1,13,2,0.01,2304,1.8,X'0B59C84216B2F03FFEFFFFFFFFFFEF3FB81E85EB51B8EE3F9DD8899DD889ED3F1CC7711CC771EC3FDCB66DDBB66DEB3F',X'38BDE94D6F7AE33F000000000000E43F7B14AE47E17AE43FC54EECC44EECE43F565555555555E53F6EDBB66DDBB6E53F');
INSERT INTO "steps" VALUES(1,19,2,0.01,3072,2.40000000000000035527e+00,X'60B9A711967BEA3F999999999999E93FC618638C31C6E83FFFFFFFFFFFFFE73F45175D74D145E73F969696969696E63F',X'7C1A61B9A711E63F666666666666E63FB6D65A6BADB5E63F000000000000E73F46175D74D145E73F888787878787E73F');
CREATE TABLE tunings (
        key TEXT PRIMARY KEY,                   -- processor, version of torch, network, images, batch
        dtype TEXT NOT NULL,
        memory_format TEXT NOT NULL,
        num_threads INTEGER NOT NULL,
        gain REAL NOT NULL
    );
INSERT INTO "tunings" VALUES('a key','float32','contiguous_format',2,1.0);
INSERT INTO "tunings" VALUES('key','float32','channels_last',2,1.25);
CREATE TABLE weights (
        run INTEGER NOT NULL REFERENCES runs ON DELETE CASCADE,
        file TEXT NOT NULL,
        sha256 TEXT NOT NULL,
        epoch INTEGER NOT NULL,
        step INTEGER NOT NULL,
        num_bytes INTEGER NOT NULL,
        PRIMARY KEY (run, step)
    );
INSERT INTO "weights" VALUES(1,'step-00000024.safetensors','abababababababababababababababababababababababababababababababab',2,24,1234);
DELETE FROM "sqlite_sequence";
INSERT INTO "sqlite_sequence" VALUES('runs',1);
INSERT INTO "sqlite_sequence" VALUES('queue',1);
COMMIT;
PRAGMA user_version = 6;
