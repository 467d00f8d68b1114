#include "cli/sp_shim.h"

#include <new>

#ifndef BIRDIE_SENTENCEPIECE

static bd_status absent(bd_err *err) {
    return BD_FAIL(
        err, BD_E_UNSUPPORTED,
        "this build has no SentencePiece: install the library with its headers (Debian: libsentencepiece-dev) and "
        "build again, without BIRDIE_STATIC where there is no static library");
}
bool bd_sp_available(void) { return false; }
bd_status bd_sp_open(bd_sp **out, const void *, size_t, bd_err *err) {
    *out = nullptr;
    return absent(err);
}
void bd_sp_close(bd_sp *) {}
bd_status bd_sp_encode(const bd_sp *, const void *, size_t, bd_buf *, bd_err *err) { return absent(err); }
bd_status bd_sp_encode_pieces(const bd_sp *, const void *, size_t, bd_sp_piece_fn *, void *, bd_err *err) {
    return absent(err);
}
bd_status bd_sp_train(const bd_sp_train_opts *, bd_sp_sentence_fn *, void *, bd_buf *, bd_err *err) {
    return absent(err);
}

#else

#include <sentencepiece_processor.h>
#include <sentencepiece_trainer.h>

#include <exception>
#include <string>
#include <unordered_map>
#include <vector>

struct bd_sp {
    sentencepiece::SentencePieceProcessor processor;
};

bool bd_sp_available(void) { return true; }

namespace {

bd_status fail(bd_err *err, bd_status code, const char *what, const char *why) {
    return BD_FAIL(err, code, "SentencePiece: %s: %s", what, why);
}

/* Runs fn and turns what it throws into a status. */
template <typename F>
bd_status guarded(const char *what, bd_err *err, F fn) {
    try {
        return fn();
    } catch (const std::bad_alloc &) {
        return fail(err, BD_E_NOMEM, what, "out of memory");
    } catch (const std::exception &e) { return fail(err, BD_E_UNSUPPORTED, what, e.what()); } catch (...) {
        return fail(err, BD_E_UNSUPPORTED, what, "an unknown exception");
    }
}

std::string_view view(const void *text, size_t n) { return {static_cast<const char *>(text), n}; }

bd_status put_id(int id, bd_buf *ids, bd_err *err) {
    if (id < 0 || id > UINT16_MAX)
        return BD_FAIL(err, BD_E_RANGE, "SentencePiece gave id %d; shards hold 0..65535", id);
    uint16_t v = static_cast<uint16_t>(id);
    bd_buf_put(ids, &v, sizeof v);
    return BD_OK;
}

class sentences : public sentencepiece::SentenceIterator {
   public:
    sentences(bd_sp_sentence_fn *next, void *user, bd_err *err) : next_(next), user_(user), err_(err) { Next(); }
    bool done() const override { return done_; }
    void Next() override {
        const void *text = nullptr;
        size_t n = 0;
        result = next_(user_, &text, &n, err_);
        done_ = result != BD_OK || n == 0;
        value_.assign(static_cast<const char *>(text), done_ ? 0 : n);
    }
    const std::string &value() const override { return value_; }
    sentencepiece::util::Status status() const override {
        if (result == BD_OK) return {};
        return {sentencepiece::util::StatusCode::kCancelled, "stopped"};
    }
    bd_status result = BD_OK;

   private:
    bd_sp_sentence_fn *next_;
    void *user_;
    bd_err *err_;
    std::string value_;
    bool done_ = false;
};

}  // namespace

bd_status bd_sp_open(bd_sp **out, const void *model, size_t n, bd_err *err) {
    *out = nullptr;
    return guarded("opening the model", err, [&] {
        std::unique_ptr<bd_sp> sp(new bd_sp);
        auto status = sp->processor.LoadFromSerializedProto(view(model, n));
        if (!status.ok()) return fail(err, BD_E_FIELD, "opening the model", status.error_message());
        *out = sp.release();
        return BD_OK;
    });
}

void bd_sp_close(bd_sp *sp) { delete sp; }

bd_status bd_sp_encode(const bd_sp *sp, const void *text, size_t n, bd_buf *ids, bd_err *err) {
    return guarded("encoding", err, [&] {
        std::vector<int> list;
        auto status = sp->processor.Encode(view(text, n), &list);
        if (!status.ok()) return fail(err, BD_E_UNSUPPORTED, "encoding", status.error_message());
        for (int id : list) BD_TRY(put_id(id, ids, err));
        return bd_buf_check(ids, err);
    });
}

bd_status bd_sp_encode_pieces(const bd_sp *sp, const void *text, size_t n, bd_sp_piece_fn *fn, void *user,
                              bd_err *err) {
    return guarded("encoding", err, [&] {
        auto result = sp->processor.EncodeAsImmutableProto(view(text, n));
        for (size_t i = 0; i < result.pieces_size(); i++) {
            auto piece = result.pieces(static_cast<int>(i));
            const std::string &surface = piece.surface();
            BD_TRY(fn(user, piece.id(), surface.data(), surface.size(), err));
        }
        return BD_OK;
    });
}

bd_status bd_sp_train(const bd_sp_train_opts *o, bd_sp_sentence_fn *next, void *user, bd_buf *model, bd_err *err) {
    return guarded("training", err, [&] {
        std::unordered_map<std::string, std::string> args = {
            {"model_type", "bpe"},
            {"vocab_size", std::to_string(o->pieces)},
            {"character_coverage", "0.999"},
            {"byte_fallback", "true"},
            {"split_digits", "true"},
            {"normalization_rule_name", "nmt_nfkc"},
            {"add_dummy_prefix", "false"},
            {"hard_vocab_limit", "false"},
            {"pad_id", "0"},
            {"bos_id", "1"},
            {"eos_id", "2"},
            {"unk_id", "3"},
            {"max_sentence_length", std::to_string(o->max_sentence)},
            {"num_threads", "1"}, /* the model file records it */
            {"minloglevel", "2"}, /* its log goes to stderr */
        };
        if (o->user_symbols) args["user_defined_symbols"] = o->user_symbols;
        sentences it(next, user, err);
        std::string bytes;
        if (it.result == BD_OK) {
            auto status = sentencepiece::SentencePieceTrainer::Train(args, &it, &bytes);
            if (!status.ok() && it.result == BD_OK)
                return fail(err, BD_E_FIELD, "training the tokenizer", status.error_message());
        }
        if (it.result != BD_OK) return it.result;
        bd_buf_put(model, bytes.data(), bytes.size());
        return bd_buf_check(model, err);
    });
}

#endif
