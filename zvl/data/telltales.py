"""What only a teacher says that sees no picture: talk of its symbols as a source, and refusals."""

from __future__ import annotations

import re

_I = re.IGNORECASE

LEAK_WORDS = (  # in lower case; no pattern for English below matches a text without one of them
    "caption", "annot", "coordinate", "description", "label", "tags", "box", "ground", "metadata", "symbolic", "detect",
    "list of", "object", "prompt", "context", "information", "text", "data",
    "sentences", "input",
)  # fmt: skip
LEAKED = {
    "en": re.compile(
        r"\bbounding[- ]box|\bbbox|\bground[- ]truth\b|\bmetadata\b|\bsymbolic (?:representation"
        r"|description)|\b[xy][- ]coordinates?\b"
        r"|\bnormali[sz]ed coordinates|\bdetected objects?\b|\b(?:object list|list of (?:detected "
        r"|annotated )?objects)\b|\bobject detect"
        r"|\bannotated (?:region|box|area|object|image|picture|data)"
        # told from a source that only the teacher has
        r"|\b(?:according to|based (?:up)?on|judging (?:by|from)|going by|inferred? (?:\w+ )?from"
        r"|as (?:\w+ )?(?:in|by|per)|per|from|by|in|given"
        r"|looking at|go by|rely(?:ing)? on|consult\w*)"
        r" (?:(?:the|these|those|its|your|all|both|each|my|first|second|provided|given|supplied|above"
        r"|image|picture|scene|input|of) )*"
        r"(?:captions?|annotations?|coordinates|(?:image|picture|scene|text|provided|given"
        r"|your) (?:descriptions?|labels?|tags?))\b"
        r"|\b(?:according to|based (?:up)?on|judging (?:by|from)|as (?:\w+ )?in) (?:the|this|your"
        r"|these)(?: given| provided)? (?:descriptions?|labels|tags|prompt|context|detections?)\b"
        # a source that tells
        r"|\b(?:captions?|annotations?|coordinates|descriptions?|detections?)(?: (?:above|below"
        r"|provided|given|here|also|only|clearly|all|both|itself|you gave))*"
        r",? (?:says?|said|states?|stated|mentions?|mentioned|describes?|described|indicates?|suggests?"
        r"|specif\w+|names?|lists?|reads|tells?|shows?"
        r"|refers?|places?|puts?|agrees?|impl(?:y|ies)|notes?|does(?:n['’]t| not)|do(?:n['’]t| not)"
        r"|did(?:n['’]t| not)|provided|given|make)\b"
        r"|\bdoes the (?:description|caption|annotation|context) (?:say|mention|state|tell|describe)"
        r"|\b(?:i (?:only |just )?(?:have|was given|got|received)|(?:none|one|both|all|each|two) of"
        r"|only) (?:the|these|those|five|two) (?:captions?|annotations?)"
        # what is provided to a model
        r"|\b(?:provided|given|supplied|available|above) (?:bounding |image |text |textual "
        r"|object )?(?:captions?|annotations?|coordinates|descriptions?|labels|tags"
        r"|information|context|boxes|text|data|input)\b"
        r"|\b(?:captions?|annotations?|descriptions?|labels|tags|information|context|boxes|text|data"
        r"|sentences) (?:that (?:was|were|i was|you) )?"
        r"(?:i was |you )?(?:ha(?:s|ve) )?(?:provided|supplied|given)\b",
        _I,
    ),
    "zh": re.compile(
        "边界框|包围框|检测框|标注框|真值|元数据|[横纵xyXY]轴?坐标|归一化坐标|bbox|[物对][体象](?:列表"
        "|清单|框)|检测到的|边框(?:数据|信息|坐标)|符号(?:表示|信息)"
        "|(?:被|已)标注的|(?:坐标|标注|描述|框的?)(?:信息|数据|文字|文本|内容)"
        "|(?:根据|依据|依照|按照|按|基于|从|由|据|如|参考|参照|通过|结合|看|凭)[^，。！？]{0,8}(?:描述"
        "|标注|坐标|说明文字|注释|上下文|提示词)(?!了|着|得|一)"
        "|(?:描述|标注|坐标|说明文字|注释|文字标题|标题|上下文)(?:里|中|上|内)?(?:也|都|并|还|只|仅|均"
        "|已|就|所|明确)*"
        "(?:没有?|未)?(?:有)?(?:提到|提及|提过|说到|指出|显示|表明|写道?|列出|列有|包含|包括|说明|记载"
        "|给出|是怎么说|怎么说|怎么写|说|所言|所示|所述)"
        "|(?:(?:提供|给出|给定|得到|给我|输入|附带)的|给定|所给的?|上述|以上)(?:几[条个]|这些|图片|图像"
        "|文字|物体)*(?:描述|标注|坐标|标签|上下文|信息|文本|文字|边框|数据)"
        "|[第每几两][一二三四五]?条描述|所有(?:的)?描述",
        _I,
    ),
}  # fmt: skip

_PICTURE = r"(?:images?|pictures?|photos?|photographs?|visuals?|visual (?:content|input|data)|drawings?)"
_UNABLE = (
    r"(?:can(?:no|['’])t|can not|(?:am|are|['’]m|be) (?:un|not )able to|do(?:n['’]t| not) have (?:the"
    r"|any) (?:ability|capability|capacity|means) to|have no way (?:of|to)|lack the (?:ability"
    r"|capability) to|do(?:n['’]t| not) (?:have|possess)(?: \w+)? access to)"
)
REFUSED = {
    "en": re.compile(
        r"\b(?:an?|just an?|being an?) (?:\w+ )?(?:ai\b|artificial intelligence|(?:large "
        r"|ai )?language model|text[- ](?:based|only) (?:\w+)|virtual assistant|chatbot)"
        rf"|\bi(?:['’]m| am)? ?(?:\w+ )?{_UNABLE} (?:\w+ )?(?:see|view|look at|access|process|interpret"
        rf"|analy[sz]e|open|perceive|viewing|seeing|perceiving|display)"
        rf"(?: or \w+| and \w+)?(?: (?:the|this|that|any|your|an|actual|such))* {_PICTURE}(?!['’]s)"
        rf"|\b{_UNABLE} (?:the|this|that|any|your) {_PICTURE}"
        r"|\b(?:sorry|apologi[sz]e|apologies|unfortunately|afraid|regret\w*)\b[^.!?]{0,30}?"
        r"(?:can(?:no|['’])t|can not|unable to|not able to|won['’]t be able to"
        r"|will not be able to) (?:\w+ ){0,2}?(?:help|assist|answer|fulfil\w*|comply|provide|describe"
        r"|do that|continue|respond|complete)"
        r"|\b(?:unable|not able) to (?:answer|provide|describe|assist|help|fulfil\w*|comply)|\b(?:must"
        r"|have to) decline\b|\bi (?:decline|refuse) to\b"
        rf"|\bno {_PICTURE} (?:was|were|is|has been|have been|for me|provided|attached|uploaded|included)"
        rf"|\b(?:upload|attach|share|send|provide)(?:ed)?(?: me)?(?: with)? (?:the|an|any|your|a) {_PICTURE}"
        rf"|\b{_PICTURE} (?:was |were )?(?:attached|uploaded)\b|\bif you (?:can |could )?(?:describe"
        rf"|upload|share|provide) (?:the|your|an) {_PICTURE}"
        r"|\bcan['’]?(?:no)?t (?:help|assist) (?:you )?with (?:that|this)\b",
        _I,
    ),
    "zh": re.compile(
        "(?:作为|身为|是|由于我是)(?:一[个名款种位])?(?:只是)?(?:基于文本的|大型|虚拟"
        "|纯文本)*(?:的)?(?:AI|人工智能|语言模型|大模型|大语言模型|虚拟助手|聊天机器人|助手|文本模型)"
        "|(?:无法|不能|没有?办法|没法|看不到|看不见|不具备|没有能力|缺乏"
        "|没有途径)[^，。！？]{0,8}?(?:看到?|查看|访问|处理|识别|浏览|打开|分析|读取|解读|获取|感知|观看)?"
        "(?:您|你)?(?:提供|上传|发送?|提到)?的?(?:这|那|任何|此)?[张幅些]?(?:图片|图像|照片|这幅画|视觉)(?![里中上内左右下])"
        "|没有(?:\\w{0,2})?(?:查看|分析|处理|识别|看)[^，。]{0,3}(?:图片|图像|照片)的能力|没有视觉"
        "|(?:抱歉|对不起|不好意思|遗憾|恐怕|很遗憾)[^。！？]{0,14}?(?:无法|不能|没办法|没法|回答不了"
        "|帮不了|做不到)"
        "|(?:无法|不能|拒绝)(?:直接)?(?:为您|为你|给您|给你)?(?:回答|提供|给出|协助|帮助|满足|完成"
        "|描述)(?!.{0,6}(?:把握|准确))|回答不了"
        "|(?:请|能否|麻烦|烦请|可以)[^。！？]{0,5}(?:上传|提供|发送|分享|把图片发"
        "|发一?下?)[^。！？]{0,6}(?:图片|图像|照片|发给我)|把(?:图片|图像|照片)(?:发|传)"
        "|(?:没有?|未|忘记)[^。！？，]{0,5}(?:提供|上传|附上|附带|发送)[^。！？，]{0,6}(?:图片|图像"
        "|照片)|没有(?:图片|图像|照片)可供"
        "|如果您?你?(?:能|可以)描述一?下?(?:图片|图像|照片)",
        _I,
    ),
}  # fmt: skip
